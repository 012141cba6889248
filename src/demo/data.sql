-- The same rows at every run: nothing here is random, everything follows from hashes of the ids.
-- :shard and :shards say which users belong to this PostgreSQL, :buckets how many hash slots there are.
SET ROLE app;

INSERT INTO countries VALUES
    ('AT', 'Austria'), ('BE', 'Belgium'), ('BR', 'Brazil'), ('CA', 'Canada'), ('CH', 'Switzerland'),
    ('CZ', 'Czechia'), ('DE', 'Germany'), ('DK', 'Denmark'), ('ES', 'Spain'), ('FI', 'Finland'),
    ('FR', 'France'), ('GB', 'United Kingdom'), ('IN', 'India'), ('IT', 'Italy'), ('JP', 'Japan'),
    ('NL', 'Netherlands'), ('NO', 'Norway'), ('PL', 'Poland'), ('SE', 'Sweden'), ('US', 'United States');

INSERT INTO plans VALUES (1, 'free', 0), (2, 'plus', 499), (3, 'pro', 999), (4, 'team', 2999);

-- A number from 0 to below `n` for a pair of ids.
CREATE FUNCTION pg_temp.pick(id bigint, seed bigint, n bigint) RETURNS bigint
    LANGUAGE sql IMMUTABLE AS $$ SELECT (hashint8extended(id, seed) & 1152921504606846975) % n $$;

-- The users of this shard: the bucket is the one that PARTITION BY HASH gives, and bucket b is on
-- shard b mod shards.
CREATE TEMP TABLE mine AS
SELECT id
FROM generate_series(1, :users) AS id
WHERE (((hashint8extended(id, 8816678312871386365) & (:buckets - 1))
      + (5305509591434766563 & (:buckets - 1))) & (:buckets - 1)) % :shards = :shard;

INSERT INTO users
SELECT id,
       (ARRAY['Ada', 'Ben', 'Chen', 'Dana', 'Emil', 'Fay', 'Gus', 'Hana', 'Ivo', 'Jun', 'Kim', 'Lea', 'Max', 'Nia',
              'Oto', 'Pia', 'Quin', 'Ruth', 'Sam', 'Tess'])[1 + pg_temp.pick(id, 1, 20)] || ' ' || id,
       'user' || id || '@example.com',
       (SELECT array_agg(code ORDER BY code) FROM countries)[1 + pg_temp.pick(id, 2, 20)],
       1 + least(pg_temp.pick(id, 3, 7), 3),
       timestamptz '2025-01-01 00:00:00+00' + pg_temp.pick(id, 4, 31536000) * interval '1 second'
FROM mine;

INSERT INTO posts
SELECT id, id * 100 + n, 'Post ' || n || ' of user ' || id,
       timestamptz '2025-06-01 00:00:00+00' + pg_temp.pick(id * 100 + n, 5, 15000000) * interval '1 second'
FROM mine, generate_series(1, pg_temp.pick(id, 6, 7)) AS n;

INSERT INTO likes
SELECT id, author * 100 + 1, timestamptz '2025-09-01 00:00:00+00' + pg_temp.pick(id * 100 + n, 7, 7000000) * interval '1 second'
FROM mine, generate_series(1, pg_temp.pick(id, 8, 11)) AS n, LATERAL (SELECT 1 + pg_temp.pick(id * 100 + n, 9, :users) AS author) AS liked
ON CONFLICT DO NOTHING;

INSERT INTO workouts
SELECT id, id * 100 + n,
       (ARRAY['run', 'ride', 'swim', 'row', 'yoga', 'lift'])[1 + pg_temp.pick(id * 100 + n, 10, 6)],
       10 + pg_temp.pick(id * 100 + n, 11, 110),
       50 + pg_temp.pick(id * 100 + n, 12, 9000) / 10.0,
       timestamptz '2025-03-01 00:00:00+00' + pg_temp.pick(id * 100 + n, 13, 20000000) * interval '1 second'
FROM mine, generate_series(1, pg_temp.pick(id, 14, 9)) AS n;

INSERT INTO payments
SELECT u.id, u.id * 100 + n, p.price_cents, date_trunc('month', u.created_at) + n * interval '1 month'
FROM users u JOIN plans p ON p.id = u.plan_id, generate_series(1, 1 + pg_temp.pick(u.id, 15, 4)) AS n
WHERE p.price_cents > 0;

RESET ROLE;
ANALYZE;
