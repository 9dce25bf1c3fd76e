CREATE TABLE reward_model(
  id INTEGER PRIMARY KEY,
  fingerprint BLOB UNIQUE NOT NULL CHECK(length(fingerprint) = 32),
  manifest TEXT NOT NULL
);
CREATE TABLE run(
  id INTEGER PRIMARY KEY,
  started TEXT NOT NULL,
  provenance TEXT NOT NULL  -- versions, device and batching: recorded, never part of a key
);
-- NaN is bound as NULL, so NOT NULL refuses it; the abs CHECK refuses infinities.
CREATE TABLE reward(
  reward_model_id INTEGER NOT NULL REFERENCES reward_model(id),
  conversation BLOB NOT NULL CHECK(length(conversation) = 32),
  reward REAL NOT NULL CHECK(abs(reward) <= 1.7976931348623157e308) CHECK(typeof(reward) = 'real'),
  tokens INTEGER NOT NULL,
  cut INTEGER NOT NULL,
  tokens_digest BLOB NOT NULL CHECK(length(tokens_digest) = 32),
  run_id INTEGER NOT NULL REFERENCES run(id),
  attributes BLOB NOT NULL CHECK(length(attributes) % 8 = 0),  -- little-endian doubles
  chk BLOB NOT NULL CHECK(length(chk) = 8),
  PRIMARY KEY(reward_model_id, conversation)
) WITHOUT ROWID;
CREATE TABLE conflict(
  reward_model_id INTEGER NOT NULL,
  conversation BLOB NOT NULL,
  kept REAL NOT NULL,
  other REAL NOT NULL,
  run_id INTEGER NOT NULL
);
CREATE TABLE file_digest(
  path TEXT PRIMARY KEY,
  size INTEGER NOT NULL,
  ctime_ns INTEGER NOT NULL,
  inode INTEGER NOT NULL,
  sha256 TEXT NOT NULL
) WITHOUT ROWID;
