-- What applications write to: people and what is theirs by `user_id`, reference table `labels`, local table `audit`.
DROP TABLE IF EXISTS people_labels, notes, people, labels, audit CASCADE;
CREATE TABLE people (id bigserial PRIMARY KEY, email text NOT NULL, name text NOT NULL DEFAULT '', version int NOT NULL DEFAULT 1);
CREATE TABLE notes (
    user_id bigint NOT NULL REFERENCES people ON DELETE CASCADE,
    id bigserial,
    title text NOT NULL,
    n int NOT NULL DEFAULT 0 CONSTRAINT not_negative CHECK (n >= 0),
    price numeric(8, 2) DEFAULT 1.5,
    facts jsonb NOT NULL DEFAULT '{}',
    at timestamptz NOT NULL DEFAULT '2024-02-29 12:00+00',
    PRIMARY KEY (user_id, id),
    CONSTRAINT notes_title UNIQUE (user_id, title)
);
CREATE TABLE labels (id serial PRIMARY KEY, name text NOT NULL UNIQUE, uses int NOT NULL DEFAULT 0);
CREATE TABLE people_labels (
    id bigserial,
    user_id bigint NOT NULL REFERENCES people ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
    label_id int NOT NULL REFERENCES labels DEFERRABLE INITIALLY DEFERRED,
    PRIMARY KEY (user_id, id),
    UNIQUE (user_id, label_id)
);
CREATE TABLE audit (id serial PRIMARY KEY, what text UNIQUE);
