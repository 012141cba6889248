CREATE TYPE mood AS ENUM ('sad', 'glad');
CREATE DOMAIN percent AS int CHECK (VALUE BETWEEN 0 AND 100);
CREATE SEQUENCE ticket START 100 INCREMENT 5;
SELECT nextval('ticket'), nextval('ticket');
CREATE TABLE author (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL UNIQUE, mood mood DEFAULT 'glad');
CREATE TABLE book (
  id serial PRIMARY KEY,
  author_id bigint NOT NULL REFERENCES author ON DELETE CASCADE,
  title text COLLATE "C",
  sold percent,
  raw bytea,
  facts jsonb,
  tags text[],
  words tsvector GENERATED ALWAYS AS (to_tsvector('english', title)) STORED
);
CREATE INDEX book_words ON book USING gin (words);
CREATE INDEX book_lower ON book (lower(title)) WHERE sold > 10;
CREATE TABLE event (at date NOT NULL, what text) PARTITION BY RANGE (at);
CREATE TABLE event_2024 PARTITION OF event FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
CREATE FUNCTION loud(what text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $body$
BEGIN
  RETURN upper(what) || '!'; -- a ; and a 'quote'
END $body$;
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.facts := coalesce(NEW.facts, '{}'); RETURN NEW; END $$;
CREATE TRIGGER touch BEFORE INSERT ON book FOR EACH ROW EXECUTE FUNCTION touch();
CREATE VIEW loud_book AS SELECT b.id, loud(b.title) AS title, a.name FROM book b JOIN author a ON a.id = b.author_id;
CREATE MATERIALIZED VIEW sold AS SELECT author_id, sum(sold) AS sold FROM book GROUP BY author_id;
INSERT INTO author (name) SELECT 'author ' || g FROM generate_series(1, 300) g;
INSERT INTO book (author_id, title, sold, raw, tags)
  SELECT 1 + g % 300, E'title\t' || g || E'\n\\', g % 100, decode(lpad(to_hex(g), 8, '0'), 'hex'), ARRAY['a', NULL, 'b"c'] FROM generate_series(1, 4000) g;
INSERT INTO event SELECT date '2024-01-01' + g, 'event ' || g FROM generate_series(0, 365) g;
REFRESH MATERIALIZED VIEW sold;
SELECT lo_from_bytea(70707, repeat('large', 5000)::bytea);
COMMENT ON TABLE book IS 'what is read';
ALTER TABLE book ENABLE ROW LEVEL SECURITY;
CREATE POLICY all_of_it ON book USING (true);
