-- The tables of the demonstration, the same on every shard. Rows of one user stay together, so keys of
-- sharded tables begin with the user.
SET ROLE app;

CREATE TABLE countries (
    code text PRIMARY KEY,
    name text NOT NULL
);

CREATE TABLE plans (
    id int PRIMARY KEY,
    name text NOT NULL,
    price_cents int NOT NULL
);

CREATE TABLE users (
    id bigint PRIMARY KEY,
    name text NOT NULL,
    email text NOT NULL,
    country text NOT NULL REFERENCES countries,
    plan_id int NOT NULL REFERENCES plans,
    created_at timestamptz NOT NULL
);

CREATE TABLE posts (
    user_id bigint NOT NULL REFERENCES users,
    id bigint NOT NULL,
    body text NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (user_id, id)
);

CREATE TABLE likes (
    user_id bigint NOT NULL REFERENCES users,
    post_id bigint NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (user_id, post_id)
);

CREATE TABLE workouts (
    user_id bigint NOT NULL REFERENCES users,
    id bigint NOT NULL,
    kind text NOT NULL,
    minutes int NOT NULL,
    kcal numeric(7, 1) NOT NULL,
    started_at timestamptz NOT NULL,
    PRIMARY KEY (user_id, id)
);

CREATE TABLE payments (
    user_id bigint NOT NULL REFERENCES users,
    id bigint NOT NULL,
    amount_cents int NOT NULL,
    paid_at timestamptz NOT NULL,
    PRIMARY KEY (user_id, id)
);
