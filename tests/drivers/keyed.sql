-- What the keyed checks run on: a table for each type of key.
CREATE TABLE by_int (user_id bigint PRIMARY KEY, note text, n int);
CREATE TABLE by_text (user_id text PRIMARY KEY, n int);
CREATE TABLE by_uuid (user_id uuid PRIMARY KEY, n int);
