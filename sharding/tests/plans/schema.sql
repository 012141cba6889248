-- Users are spread by id, what belongs to them by user_id.
CREATE TABLE users (
    id bigint PRIMARY KEY,
    email text NOT NULL,
    name text,
    country text,
    plan_id int,
    score real,
    balance numeric(12, 2),
    created_at timestamptz NOT NULL DEFAULT now(),
    data jsonb
);
CREATE TABLE posts (
    id bigint,
    user_id bigint NOT NULL,
    title text,
    body text,
    views int,
    published boolean,
    created_at timestamptz,
    PRIMARY KEY (user_id, id)
);
CREATE TABLE likes (
    user_id bigint NOT NULL,
    post_id bigint NOT NULL,
    created_at timestamptz,
    PRIMARY KEY (user_id, post_id)
);
CREATE TABLE workouts (
    id uuid,
    user_id bigint NOT NULL,
    kind text COLLATE "C",
    minutes int,
    distance double precision,
    started_at timestamptz,
    PRIMARY KEY (user_id, id)
);
CREATE TABLE payments (
    id bigint,
    user_id bigint NOT NULL,
    amount numeric,
    currency char(3),
    paid_on date,
    PRIMARY KEY (user_id, id)
);
CREATE TABLE handles (handle varchar(8) PRIMARY KEY, v int);
CREATE TABLE nicks (nick text PRIMARY KEY, v int);
CREATE TABLE plans (id int PRIMARY KEY, name text, price numeric);
CREATE TABLE countries (code text PRIMARY KEY, name text);
CREATE TABLE audit_log (id bigint PRIMARY KEY, actor bigint, what text, at timestamptz);
CREATE VIEW active_users AS SELECT id, email FROM users WHERE score > 0;
CREATE VIEW by_country AS SELECT country, count(*) AS n FROM users WHERE score > 0 GROUP BY country;
CREATE VIEW names AS SELECT name FROM users;
CREATE VIEW two_views AS SELECT b.country, b.n FROM by_country b WHERE b.country IN (SELECT name FROM names);
CREATE TABLE visits (user_id bigint NOT NULL, at timestamptz NOT NULL, page text, PRIMARY KEY (user_id, at)) PARTITION BY RANGE (at);
CREATE TABLE visits_old PARTITION OF visits FOR VALUES FROM ('2000-01-01') TO ('2100-01-01');
CREATE TABLE invoices (
    id bigserial,
    user_id bigint NOT NULL,
    total int,
    made_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, id)
);
CREATE TABLE members (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), number bigint GENERATED ALWAYS AS IDENTITY, name text);
CREATE TABLE regions (id serial PRIMARY KEY, name text, token uuid DEFAULT gen_random_uuid(), made_at timestamptz DEFAULT now());
