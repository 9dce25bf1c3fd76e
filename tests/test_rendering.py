import json
import shutil

import pytest
from transformers import AutoTokenizer

from evalkit.data import Message
from evalkit.errors import RefusedModelError
from evalkit.reward_models.rendering import ConversationRenderer
from tests.shared_data import DEMO_RM, FIXTURES, conversations_of, needs_shared, spec_of

SEQCLS = FIXTURES / "seqcls"
ANSWER = " {{ messages[-1].content }}"
HI = (Message("user", "Hi"), Message("assistant", "Hello"))


def renderer(folder, **settings):
    return ConversationRenderer(
        spec_of(folder, **settings), AutoTokenizer.from_pretrained(folder), 5120
    )


def ids_of(folder, *conversation, **settings):
    (found,) = renderer(folder, **settings).render([conversation])
    return found.ids


@needs_shared
def test_a_template_that_writes_bos_and_a_tokenizer_that_adds_it_give_one():
    for item in renderer(SEQCLS).render(conversations_of(SEQCLS / "conversations.jsonl")):
        assert item.ids.count(0) == 1
        assert item.ids[0] == 0


@needs_shared
def test_the_fixture_conversations_have_their_documented_lengths():
    found = renderer(SEQCLS).render(conversations_of(SEQCLS / "conversations.jsonl"))
    assert [len(item.ids) for item in found] == [39, 55, 72, 30, 35, 282]


def test_a_template_without_bos_gets_the_one_its_tokenizer_adds():
    tokenizer = AutoTokenizer.from_pretrained(DEMO_RM)
    assert "<|bos|>" not in (DEMO_RM / "chat_template.jinja").read_text()
    ids = ids_of(DEMO_RM, *HI)
    assert ids[0] == tokenizer.convert_tokens_to_ids("<|bos|>")
    assert ids.count(ids[0]) == 1


def test_a_tokenizer_without_a_frame_gets_none(tmp_path):
    shutil.copytree(DEMO_RM, tmp_path / "rm")
    path = tmp_path / "rm" / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "post_processor": None}))
    assert ids_of(tmp_path / "rm", *HI) == ids_of(DEMO_RM, *HI)[1:]


def test_special_tokens_inside_a_text_stay_text():
    tokenizer = AutoTokenizer.from_pretrained(DEMO_RM)
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    for token in (t.content for t in tokenizer.added_tokens_decoder.values()):
        hostile = (Message("user", "Hi"), Message("assistant", f"a{token}\n{token}b"))
        ids = ids_of(DEMO_RM, *hostile)
        clean = ids_of(DEMO_RM, *HI)
        specials = set(tokenizer.all_special_ids)
        assert [i for i in ids if i in specials] == [i for i in clean if i in specials]
        assert ids[-1] == clean[-1]
        assert f"a{token}\n{token}b" in tokenizer.decode(ids)
    assert end in tokenizer.all_special_ids


def test_a_text_with_special_tokens_would_be_parsed_by_the_plain_tokenizer():
    tokenizer = AutoTokenizer.from_pretrained(DEMO_RM)
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "a<|end|>b"}],
        tokenize=False,
    )
    plain = tokenizer(text)["input_ids"]
    assert plain.count(end) == ids_of(DEMO_RM, *HI).count(end) + 1


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ strftime_now('%d %b %Y') }}", "26 Jul 2024"),
        ("{{ strftime_now('%Y-%m-%d') }}", "2024-07-26"),
        ("{%- if strftime_now is defined %}{{ strftime_now('%A') }}{% endif %}", "Friday"),
    ],
)
def test_todays_date_in_a_template_is_a_pinned_one(tmp_path, template, text):
    shutil.copytree(DEMO_RM, tmp_path / "rm")
    (tmp_path / "rm" / "chat_template.jinja").write_text(template + ANSWER)
    tokenizer = AutoTokenizer.from_pretrained(DEMO_RM)
    found = tokenizer.decode(ids_of(tmp_path / "rm", *HI), skip_special_tokens=True)
    assert found == f"{text} Hello"


def test_a_template_that_asks_for_the_time_of_day_fails_its_rows(tmp_path):
    shutil.copytree(DEMO_RM, tmp_path / "rm")
    (tmp_path / "rm" / "chat_template.jinja").write_text("{{ strftime_now('%H:%M') }}" + ANSWER)
    (found,) = renderer(tmp_path / "rm").render([HI])
    assert "time of day" in found.problem


def test_a_role_the_template_refuses_fails_that_row_alone(tmp_path):
    shutil.copytree(DEMO_RM, tmp_path / "rm")
    template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system turns') }}"
        "{% endif %}{{ m.content }}{% endfor %}"
    )
    (tmp_path / "rm" / "chat_template.jinja").write_text(template)
    refused, fine = renderer(tmp_path / "rm").render([(Message("system", "x"), *HI), HI])
    assert "no system turns" in refused.problem
    assert fine.ids


def test_an_overlong_conversation_is_an_error_of_its_row():
    length = len(ids_of(DEMO_RM, *HI))
    for limit, problem in ((length - 1, True), (length, False), (length + 1, False)):
        (found,) = renderer(DEMO_RM, max_length=limit).render([HI])
        assert bool(found.problem) is problem
        assert (f"{length} tokens" in found.problem) is problem


def test_a_limit_without_room_for_text_is_no_reward():
    (found,) = renderer(DEMO_RM, max_length=1, overlong="truncate-left").render([HI])
    assert (found.ids, "no room" in found.problem) == ([], True)


def test_truncation_keeps_the_bos_and_the_end_of_the_answer_and_counts_the_rest():
    whole = ids_of(DEMO_RM, *HI)
    (found,) = renderer(DEMO_RM, max_length=len(whole) - 3, overlong="truncate-left").render([HI])
    assert found.cut == 3
    assert found.ids == [whole[0], *whole[4:]]


@pytest.mark.parametrize("template", ["{{ 1 / 0 }}", "{{ 'a' + 1 }}", "{{ undefined.x }}", "{% if"])
def test_a_template_that_breaks_fails_its_rows(tmp_path, template):
    shutil.copytree(DEMO_RM, tmp_path / "rm")
    (tmp_path / "rm" / "chat_template.jinja").write_text(template)
    (found,) = renderer(tmp_path / "rm").render([HI])
    assert "the chat template refuses it" in found.problem


def test_a_template_that_renders_nothing_fails_its_rows(tmp_path):
    shutil.copytree(DEMO_RM, tmp_path / "rm")
    (tmp_path / "rm" / "chat_template.jinja").write_text("")
    (found,) = renderer(tmp_path / "rm").render([HI])
    assert "renders nothing" in found.problem


def test_a_template_that_does_not_show_the_answer_is_refused(tmp_path):
    shutil.copytree(DEMO_RM, tmp_path / "rm")
    (tmp_path / "rm" / "chat_template.jinja").write_text("{{ messages[0].content }}")
    with pytest.raises(RefusedModelError, match="does not show the answer"):
        renderer(tmp_path / "rm")


def test_a_token_without_an_embedding_fails_its_row():
    tokenizer = AutoTokenizer.from_pretrained(DEMO_RM)
    (found,) = ConversationRenderer(spec_of(DEMO_RM), tokenizer, 30).render([HI])
    assert "where the model knows 30 tokens" in found.problem
