//! The SQL that asks one server what it contains.
//!
//! Every name and every operator is qualified with `pg_catalog`, so that the answer cannot depend on
//! a `search_path`: a client could otherwise put an `=` of its own in front of PostgreSQL's and
//! poison the catalog that all clients share. A column that PostgreSQL 14 lacks (`datlocprovider`) is
//! read through `to_jsonb(row)`, which gives NULL for what is not there. The names of ICU and builtin
//! locales, whose columns changed with almost every version, are not needed: the provider says enough.

/// What a query asks for; says how its rows are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    Database,
    Collations,
    Domains,
    Types,
    Columns,
    Parents,
    Functions,
    Sequences,
    Triggers,
    Cascades,
    Rules,
    Policies,
    Defaults,
    Views,
}

/// One question to a server.
#[derive(Clone, Copy, Debug)]
pub struct Query {
    pub subject: Subject,
    pub sql: &'static str,
}

/// All questions, in the order in which the builder wants the answers.
pub const QUERIES: [Query; 11] = [
    Query { subject: Subject::Database, sql: DATABASE },
    Query { subject: Subject::Collations, sql: COLLATIONS },
    Query { subject: Subject::Domains, sql: DOMAINS },
    Query { subject: Subject::Types, sql: TYPES },
    Query { subject: Subject::Columns, sql: COLUMNS },
    Query { subject: Subject::Parents, sql: PARENTS },
    Query { subject: Subject::Functions, sql: FUNCTIONS },
    Query { subject: Subject::Sequences, sql: SEQUENCES },
    Query { subject: Subject::Triggers, sql: TRIGGERS },
    Query { subject: Subject::Cascades, sql: CASCADES },
    Query { subject: Subject::Rules, sql: RULES },
];

/// What is asked last, where no transaction is open: these change the search path of their transaction.
pub const OUTSIDE_QUERIES: [Query; 3] = [
    Query { subject: Subject::Policies, sql: POLICIES },
    Query { subject: Subject::Defaults, sql: DEFAULTS },
    Query { subject: Subject::Views, sql: VIEWS },
];

/// What is asked in the middle of a client's transaction instead: names in expressions are as its search path wants them.
pub const INSIDE_QUERIES: [Query; 2] =
    [Query { subject: Subject::Policies, sql: OWN_POLICIES }, Query { subject: Subject::Defaults, sql: OWN_DEFAULTS }];

/// provider, LC_COLLATE, the search_path that RESET goes back to.
///
/// Before PostgreSQL 15 a database had no provider: libc.
const DATABASE: &str = "\
SELECT COALESCE(pg_catalog.jsonb_extract_path_text(j.fields, 'datlocprovider'), 'c'), \
  pg_catalog.jsonb_extract_path_text(j.fields, 'datcollate'), \
  (SELECT s.reset_val FROM pg_catalog.pg_settings s WHERE s.name OPERATOR(pg_catalog.=) 'search_path') \
FROM pg_catalog.pg_database d CROSS JOIN LATERAL (SELECT pg_catalog.to_jsonb(d)) j(fields) \
WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()";

/// oid, provider, LC_COLLATE, deterministic, name in SQL: the collations that columns use.
const COLLATIONS: &str = "\
SELECT k.oid, k.collprovider, k.collcollate, k.collisdeterministic, \
  pg_catalog.concat(pg_catalog.quote_ident(n.nspname), '.', pg_catalog.quote_ident(k.collname)) \
FROM (SELECT DISTINCT a.attcollation FROM pg_catalog.pg_attribute a) u \
JOIN pg_catalog.pg_collation k ON k.oid OPERATOR(pg_catalog.=) u.attcollation \
JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) k.collnamespace";

/// oid, oid of the type below, its typmod.
const DOMAINS: &str = "\
SELECT t.oid, t.typbasetype, t.typtypmod FROM pg_catalog.pg_type t WHERE t.typtype OPERATOR(pg_catalog.=) 'd'";

/// oid, name in SQL, whether its values cross in binary (b), as text (t), within a row (r) or not (n), its collation, whether it is a
/// date or time or has parts that are: the types that columns have.
///
/// As text goes tsquery, whose binary form cannot be read when it is empty. What has no binary form, or means an object by a number (regclass
/// and the like), does not cross, nor does what has such parts.
const TYPES: &str = "\
WITH RECURSIVE parts(part, whole) AS MATERIALIZED ( \
  SELECT a.typelem, a.oid FROM pg_catalog.pg_type a WHERE a.typelem OPERATOR(pg_catalog.<>) 0::pg_catalog.oid \
  UNION ALL SELECT a.typbasetype, a.oid FROM pg_catalog.pg_type a WHERE a.typbasetype OPERATOR(pg_catalog.<>) 0::pg_catalog.oid \
  UNION ALL SELECT r.rngsubtype, r.rngtypid FROM pg_catalog.pg_range r \
  UNION ALL SELECT r.rngsubtype, r.rngmultitypid FROM pg_catalog.pg_range r \
  UNION ALL SELECT x.atttypid, c.reltype FROM pg_catalog.pg_attribute x \
    JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) x.attrelid \
    WHERE x.attrelid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid AND c.reltype OPERATOR(pg_catalog.<>) 0::pg_catalog.oid \
      AND x.attnum OPERATOR(pg_catalog.>) 0 AND NOT x.attisdropped), \
unsendable(oid) AS ( \
  SELECT t.oid FROM pg_catalog.pg_type t WHERE t.typsend OPERATOR(pg_catalog.=) 0::pg_catalog.oid \
    OR t.typreceive OPERATOR(pg_catalog.=) 0::pg_catalog.oid OR t.typtype OPERATOR(pg_catalog.=) 'p' \
    OR t.oid OPERATOR(pg_catalog.=) ANY ('{24,2202,2203,2204,2205,2206,3615,3734,3769,4089,4096,4191}'::pg_catalog.oid[]) \
  UNION SELECT p.whole FROM unsendable u JOIN parts p ON p.part OPERATOR(pg_catalog.=) u.oid), \
timely(oid) AS ( \
  SELECT t.oid FROM pg_catalog.pg_type t WHERE t.oid OPERATOR(pg_catalog.=) ANY ('{1082,1083,1114,1184,1266}'::pg_catalog.oid[]) \
  UNION SELECT p.whole FROM timely u JOIN parts p ON p.part OPERATOR(pg_catalog.=) u.oid) \
SELECT t.oid, pg_catalog.concat(pg_catalog.quote_ident(n.nspname), '.', pg_catalog.quote_ident(t.typname)), \
  CASE WHEN t.oid OPERATOR(pg_catalog.=) 3615::pg_catalog.oid THEN 't' \
    WHEN t.oid OPERATOR(pg_catalog.=) ANY (ARRAY(SELECT u.oid FROM unsendable u)) THEN 'n' \
    WHEN t.typcategory OPERATOR(pg_catalog.=) 'A' OR t.typtype OPERATOR(pg_catalog.=) 'c' THEN 'r' \
    WHEN t.typtype OPERATOR(pg_catalog.=) ANY ('{b,e,r,m}'::pg_catalog.\"char\"[]) THEN 'b' ELSE 'n' END, \
  t.typcollation, t.oid OPERATOR(pg_catalog.=) ANY (ARRAY(SELECT u.oid FROM timely u)) \
FROM pg_catalog.pg_type t \
JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) t.typnamespace \
WHERE EXISTS (SELECT FROM pg_catalog.pg_attribute a WHERE a.atttypid OPERATOR(pg_catalog.=) t.oid) \
  OR EXISTS (SELECT FROM pg_catalog.pg_type d WHERE d.typbasetype OPERATOR(pg_catalog.=) t.oid)";

/// schema, relation, relkind, column (NULL when the relation has none), type, typmod, NOT NULL,
/// collation, part of the primary key, generated; in the order of `SELECT *`.
///
/// The schema `sluice` is the router's own and no user's.
const COLUMNS: &str = "\
SELECT n.nspname, c.relname, c.relkind, a.attname, a.atttypid, a.atttypmod, a.attnotnull, a.attcollation, \
  COALESCE(a.attnum OPERATOR(pg_catalog.=) ANY (p.conkey), false), COALESCE(a.attgenerated OPERATOR(pg_catalog.<>) '', false) \
FROM pg_catalog.pg_class c \
JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace \
LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid OPERATOR(pg_catalog.=) c.oid \
  AND a.attnum OPERATOR(pg_catalog.>) 0 AND NOT a.attisdropped \
LEFT JOIN pg_catalog.pg_constraint p ON p.conrelid OPERATOR(pg_catalog.=) c.oid AND p.contype OPERATOR(pg_catalog.=) 'p' \
WHERE c.relkind OPERATOR(pg_catalog.=) ANY ('{r,p,v,m,f,S}'::pg_catalog.\"char\"[]) \
  AND c.relpersistence OPERATOR(pg_catalog.<>) 't' \
  AND n.nspname OPERATOR(pg_catalog.<>) ALL ('{pg_catalog,information_schema,pg_toast,sluice}'::pg_catalog.name[]) \
ORDER BY n.nspname, c.relname, a.attnum";

/// schema and name of a table or partition, schema and name of a table whose rows include its own.
const PARENTS: &str = "\
SELECT n.nspname, c.relname, m.nspname, p.relname \
FROM pg_catalog.pg_inherits i \
JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) i.inhrelid \
JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace \
JOIN pg_catalog.pg_class p ON p.oid OPERATOR(pg_catalog.=) i.inhparent \
JOIN pg_catalog.pg_namespace m ON m.oid OPERATOR(pg_catalog.=) p.relnamespace \
WHERE c.relkind OPERATOR(pg_catalog.=) ANY ('{r,p,f}'::pg_catalog.\"char\"[])";

/// name, kind, returns a set, volatility, body where it may change its session: each combination once. What an extension or a user has put
/// into `pg_catalog` counts too; what PostgreSQL brings has an oid below 16384.
const FUNCTIONS: &str = "\
SELECT DISTINCT p.proname, p.prokind, p.proretset, p.provolatile, \
  CASE WHEN p.prosrc OPERATOR(pg_catalog.~*) '(set|temp|_advisory_|listen|prepare|load)' THEN p.prosrc ELSE '' END \
FROM pg_catalog.pg_proc p \
JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace \
WHERE p.oid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid \
  AND n.nspname OPERATOR(pg_catalog.<>) 'sluice' \
  AND NOT (p.prokind OPERATOR(pg_catalog.=) 'a' \
    AND EXISTS (SELECT FROM pg_catalog.unnest(p.proargtypes) t(oid) WHERE t.oid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid) \
    AND EXISTS (SELECT FROM pg_catalog.pg_proc b WHERE b.proname OPERATOR(pg_catalog.=) p.proname \
      AND b.oid OPERATOR(pg_catalog.<) 16384::pg_catalog.oid))";

/// schema, sequence, schema and name of the table to one of whose columns it belongs.
const SEQUENCES: &str = "\
SELECT n.nspname, c.relname, m.nspname, t.relname \
FROM pg_catalog.pg_class c \
JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace \
LEFT JOIN pg_catalog.pg_depend d ON d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass \
  AND d.objid OPERATOR(pg_catalog.=) c.oid AND d.refobjsubid OPERATOR(pg_catalog.>) 0 \
  AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass \
LEFT JOIN pg_catalog.pg_class t ON t.oid OPERATOR(pg_catalog.=) d.refobjid \
LEFT JOIN pg_catalog.pg_namespace m ON m.oid OPERATOR(pg_catalog.=) t.relnamespace \
WHERE c.relkind OPERATOR(pg_catalog.=) 'S' AND c.relpersistence OPERATOR(pg_catalog.<>) 't' \
  AND n.nspname OPERATOR(pg_catalog.<>) 'sluice'";

/// schema, table, trigger, `tgtype`, function, its language, its body: the triggers that act when a client writes.
const TRIGGERS: &str = "\
SELECT n.nspname, c.relname, t.tgname, t.tgtype, p.proname, l.lanname, p.prosrc \
FROM pg_catalog.pg_trigger t \
JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) t.tgrelid \
JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace \
JOIN pg_catalog.pg_proc p ON p.oid OPERATOR(pg_catalog.=) t.tgfoid \
JOIN pg_catalog.pg_language l ON l.oid OPERATOR(pg_catalog.=) p.prolang \
WHERE NOT t.tgisinternal AND t.tgenabled OPERATOR(pg_catalog.=) ANY ('{O,A}'::pg_catalog.\"char\"[]) \
  AND n.nspname OPERATOR(pg_catalog.<>) 'sluice' \
ORDER BY n.nspname, c.relname, t.tgname";

/// schema, table, schema and name of the table that its rows follow, a column by which they do, what happens to them when a row there is
/// deleted, when the column is updated.
const CASCADES: &str = "\
SELECT n.nspname, c.relname, m.nspname, r.relname, a.attname, x.confdeltype, x.confupdtype \
FROM pg_catalog.pg_constraint x \
JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) x.conrelid \
JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace \
JOIN pg_catalog.pg_class r ON r.oid OPERATOR(pg_catalog.=) x.confrelid \
JOIN pg_catalog.pg_namespace m ON m.oid OPERATOR(pg_catalog.=) r.relnamespace \
JOIN pg_catalog.pg_attribute a ON a.attrelid OPERATOR(pg_catalog.=) x.confrelid AND a.attnum OPERATOR(pg_catalog.=) ANY (x.confkey) \
WHERE x.contype OPERATOR(pg_catalog.=) 'f' AND (x.confdeltype OPERATOR(pg_catalog.=) ANY ('{c,n,d}'::pg_catalog.\"char\"[]) \
  OR x.confupdtype OPERATOR(pg_catalog.=) ANY ('{c,n,d}'::pg_catalog.\"char\"[])) \
ORDER BY n.nspname, c.relname, x.conname, a.attnum";

/// schema, table, rule, `ev_type`: the rules of tables that do more than nothing.
const RULES: &str = "\
SELECT n.nspname, c.relname, r.rulename, r.ev_type \
FROM pg_catalog.pg_rewrite r \
JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) r.ev_class \
JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace \
WHERE c.relkind OPERATOR(pg_catalog.=) ANY ('{r,p}'::pg_catalog.\"char\"[]) \
  AND r.ev_enabled OPERATOR(pg_catalog.=) ANY ('{O,A}'::pg_catalog.\"char\"[]) \
  AND NOT (r.ev_qual::pg_catalog.text OPERATOR(pg_catalog.=) '<>' \
    AND pg_catalog.pg_get_ruledef(r.oid) OPERATOR(pg_catalog.~) ' DO (INSTEAD )?NOTHING;?$') \
  AND n.nspname OPERATOR(pg_catalog.<>) ALL ('{pg_catalog,information_schema,sluice}'::pg_catalog.name[]) \
ORDER BY n.nspname, c.relname, r.rulename";

macro_rules! policies {
    ($before:literal, $first:literal) => {
        concat!(
            $before,
            "SELECT n.nspname, c.relname, p.polname, pg_catalog.pg_get_expr(p.polqual, p.polrelid), \
               pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid) \
             FROM ",
            $first,
            "pg_catalog.pg_policy p \
             JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) p.polrelid \
             JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace \
             WHERE c.relrowsecurity AND EXISTS (SELECT FROM pg_catalog.pg_depend d \
               WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_policy'::pg_catalog.regclass \
                 AND d.objid OPERATOR(pg_catalog.=) p.oid \
                 AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass \
                 AND d.refobjid OPERATOR(pg_catalog.<>) p.polrelid) \
             ORDER BY n.nspname, c.relname, p.polname"
        )
    };
}

/// schema, table, policy, its USING and its WITH CHECK: the policies in force that look at other tables.
const POLICIES: &str = policies!(
    "WITH settings AS MATERIALIZED (SELECT pg_catalog.set_config('search_path', '', true)), \
     ready AS MATERIALIZED (SELECT pg_catalog.count(*) FROM settings) ",
    "ready CROSS JOIN "
);

/// The same, with names as the search path wants them.
const OWN_POLICIES: &str = policies!("", "");

macro_rules! defaults {
    ($before:literal, $first:literal) => {
        concat!(
            $before,
            "SELECT n.nspname, c.relname, a.attname, a.attidentity, \
               COALESCE(pg_catalog.pg_get_expr(d.adbin, d.adrelid), pg_catalog.pg_get_expr(t.typdefaultbin, 0::pg_catalog.oid)), \
               m.nspname, s.relname \
             FROM ",
            $first,
            "pg_catalog.pg_attribute a \
             JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) a.attrelid \
             JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace \
             JOIN pg_catalog.pg_type t ON t.oid OPERATOR(pg_catalog.=) a.atttypid \
             LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid OPERATOR(pg_catalog.=) a.attrelid AND d.adnum OPERATOR(pg_catalog.=) a.attnum \
             LEFT JOIN pg_catalog.pg_depend i ON a.attidentity OPERATOR(pg_catalog.<>) '' \
               AND i.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass \
               AND i.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass \
               AND i.refobjid OPERATOR(pg_catalog.=) a.attrelid AND i.refobjsubid OPERATOR(pg_catalog.=) a.attnum \
               AND i.deptype OPERATOR(pg_catalog.=) 'i' \
             LEFT JOIN pg_catalog.pg_depend u ON pg_catalog.pg_get_expr(d.adbin, d.adrelid) \
                 OPERATOR(pg_catalog.~) '^nextval\\(''[^'']*''::regclass\\)$' \
               AND u.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_attrdef'::pg_catalog.regclass \
               AND u.objid OPERATOR(pg_catalog.=) d.oid \
               AND u.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass \
               AND u.deptype OPERATOR(pg_catalog.=) 'n' \
             LEFT JOIN pg_catalog.pg_class s ON s.oid OPERATOR(pg_catalog.=) COALESCE(i.objid, u.refobjid) \
               AND s.relkind OPERATOR(pg_catalog.=) 'S' \
             LEFT JOIN pg_catalog.pg_namespace m ON m.oid OPERATOR(pg_catalog.=) s.relnamespace \
             WHERE (a.atthasdef OR a.attidentity OPERATOR(pg_catalog.<>) '' OR t.typdefaultbin IS NOT NULL \
                 AND t.typtype OPERATOR(pg_catalog.=) 'd') \
               AND a.attgenerated OPERATOR(pg_catalog.=) '' AND a.attnum OPERATOR(pg_catalog.>) 0 AND NOT a.attisdropped \
               AND c.relkind OPERATOR(pg_catalog.=) ANY ('{r,p,v,f}'::pg_catalog.\"char\"[]) \
               AND c.relpersistence OPERATOR(pg_catalog.<>) 't' \
               AND n.nspname OPERATOR(pg_catalog.<>) ALL ('{pg_catalog,information_schema,pg_toast,sluice}'::pg_catalog.name[])"
        )
    };
}

/// schema, table, column, identity (`a` always, `d` by default), the default in SQL, schema and name of the sequence if its next value is
/// the default and nothing else.
const DEFAULTS: &str = defaults!(
    "WITH settings AS MATERIALIZED (SELECT pg_catalog.set_config('search_path', '', true)), \
     ready AS MATERIALIZED (SELECT pg_catalog.count(*) FROM settings) ",
    "ready CROSS JOIN "
);

/// The same, with names as the search path wants them.
const OWN_DEFAULTS: &str = defaults!("", "");

/// schema, name, definition with all names qualified and constants that read the same under all settings, whether it may be written in the
/// place of the view.
///
/// It may not where that could show other rows, or to others: a materialized view, row security below it, a `security_barrier`, a view that
/// somebody may not read who may read all its tables (of one table suffices, since all must be readable), and operators, amounts of
/// money and NULLs in constant arrays, which mean something else under another search path, locale or `array_nulls`.
const VIEWS: &str = "\
WITH settings AS MATERIALIZED (SELECT pg_catalog.set_config(s.name, s.value, true) \
  FROM (VALUES ('search_path', ''), ('datestyle', 'ISO'), ('intervalstyle', 'iso_8601'), ('extra_float_digits', '1'), \
    ('bytea_output', 'hex')) s(name, value)), \
ready AS MATERIALIZED (SELECT pg_catalog.count(*) FROM settings), \
below AS MATERIALIZED (SELECT DISTINCT w.ev_class AS view, t.oid, t.relrowsecurity FROM pg_catalog.pg_rewrite w \
  JOIN pg_catalog.pg_depend d ON d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_rewrite'::pg_catalog.regclass \
    AND d.objid OPERATOR(pg_catalog.=) w.oid AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass \
    AND d.refobjid OPERATOR(pg_catalog.<>) w.ev_class \
  JOIN pg_catalog.pg_class t ON t.oid OPERATOR(pg_catalog.=) d.refobjid), \
readers AS MATERIALIZED (SELECT t.oid AS relation, x.grantee, true AS whole FROM pg_catalog.pg_class t \
  CROSS JOIN LATERAL pg_catalog.aclexplode(COALESCE(t.relacl, pg_catalog.acldefault('r', t.relowner))) x \
  WHERE x.privilege_type OPERATOR(pg_catalog.=) 'SELECT' AND t.relkind OPERATOR(pg_catalog.=) ANY ('{r,p,v,m,f}'::pg_catalog.\"char\"[]) \
  UNION ALL SELECT a.attrelid, x.grantee, false FROM pg_catalog.pg_attribute a CROSS JOIN LATERAL pg_catalog.aclexplode(a.attacl) x \
  WHERE x.privilege_type OPERATOR(pg_catalog.=) 'SELECT'), \
closed AS MATERIALIZED (SELECT b.view, b.oid FROM below b JOIN readers r ON r.relation OPERATOR(pg_catalog.=) b.oid \
  WHERE NOT EXISTS (SELECT FROM readers v WHERE v.relation OPERATOR(pg_catalog.=) b.view AND v.whole \
    AND (v.grantee OPERATOR(pg_catalog.=) r.grantee OR v.grantee OPERATOR(pg_catalog.=) 0::pg_catalog.oid))) \
SELECT n.nspname, c.relname, d.definition, c.relkind OPERATOR(pg_catalog.=) 'v' \
  AND NOT EXISTS (SELECT FROM pg_catalog.unnest(c.reloptions) o(option) \
    WHERE o.option OPERATOR(pg_catalog.~~) 'security_barrier=%' AND o.option OPERATOR(pg_catalog.<>) 'security_barrier=false') \
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_operator o WHERE o.oid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid \
    AND pg_catalog.strpos(d.definition, o.oprname::pg_catalog.text) OPERATOR(pg_catalog.>) 0) \
  AND NOT EXISTS (SELECT FROM (VALUES ('::money'), ('{NULL'), (',NULL')) m(mark) \
    WHERE pg_catalog.strpos(d.definition, m.mark) OPERATOR(pg_catalog.>) 0) \
  AND NOT c.oid OPERATOR(pg_catalog.=) ANY (ARRAY(SELECT b.view FROM below b WHERE b.relrowsecurity)) \
  AND c.oid OPERATOR(pg_catalog.=) ANY (ARRAY(SELECT b.view FROM below b WHERE NOT EXISTS (SELECT FROM closed x \
    WHERE x.view OPERATOR(pg_catalog.=) b.view AND x.oid OPERATOR(pg_catalog.=) b.oid))) \
FROM ready CROSS JOIN pg_catalog.pg_class c \
JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace \
CROSS JOIN LATERAL (SELECT pg_catalog.pg_get_viewdef(c.oid)) d(definition) \
WHERE c.relkind OPERATOR(pg_catalog.=) ANY ('{v,m}'::pg_catalog.\"char\"[]) \
  AND c.relpersistence OPERATOR(pg_catalog.<>) 't' \
  AND n.nspname OPERATOR(pg_catalog.<>) ALL ('{pg_catalog,information_schema,pg_toast,sluice}'::pg_catalog.name[])";

/// One row of one column that changes whenever the answer to [`QUERIES`] may have changed on this
/// server. Sums of hashes, so nothing is sorted and one short line crosses the wire.
///
/// It says nothing across servers: oids differ between them.
pub const FINGERPRINT: &str = "\
SELECT pg_catalog.concat_ws('/', \
 (SELECT pg_catalog.concat_ws('.', pg_catalog.count(*), pg_catalog.sum(pg_catalog.hashtextextended(\
   pg_catalog.concat_ws(',', a.attrelid, a.attnum, a.attname, a.atttypid, a.atttypmod, a.attnotnull, \
   a.attisdropped, a.attcollation, a.attacl, a.attidentity, a.attgenerated), 0)::pg_catalog.numeric)) \
  FROM pg_catalog.pg_attribute a WHERE a.attrelid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid \
   AND a.attnum OPERATOR(pg_catalog.>) 0), \
 (SELECT pg_catalog.concat_ws('.', pg_catalog.count(*), pg_catalog.sum(pg_catalog.hashtextextended(\
   pg_catalog.concat_ws(',', c.oid, c.relname, c.relnamespace, c.relkind, c.relowner, c.relacl, \
   c.reloptions, c.relrowsecurity), 0)::pg_catalog.numeric)) \
  FROM pg_catalog.pg_class c WHERE c.oid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid \
   AND c.relpersistence OPERATOR(pg_catalog.<>) 't' \
   AND c.relkind OPERATOR(pg_catalog.=) ANY ('{r,p,v,m,f,S}'::pg_catalog.\"char\"[])), \
 (SELECT pg_catalog.concat_ws('.', pg_catalog.count(*), pg_catalog.sum(pg_catalog.hashtextextended(\
   pg_catalog.concat_ws(',', p.oid, p.proname, p.pronamespace, p.prokind, p.proretset, p.provolatile, p.prosrc), 0)\
   ::pg_catalog.numeric)) \
  FROM pg_catalog.pg_proc p WHERE p.oid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid), \
 (SELECT pg_catalog.sum(pg_catalog.hashtextextended(pg_catalog.concat_ws(',', p.conrelid, p.conkey, p.confrelid, p.confkey, \
   p.confdeltype, p.confupdtype), 0)::pg_catalog.numeric) FROM pg_catalog.pg_constraint p \
   WHERE p.contype OPERATOR(pg_catalog.=) ANY ('{p,f}'::pg_catalog.\"char\"[]) \
   AND p.oid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid), \
 (SELECT pg_catalog.sum(pg_catalog.hashtextextended(pg_catalog.concat_ws(',', t.tgrelid, t.tgname, t.tgfoid, t.tgtype, t.tgenabled), 0)\
   ::pg_catalog.numeric) FROM pg_catalog.pg_trigger t WHERE NOT t.tgisinternal), \
 (SELECT pg_catalog.sum(pg_catalog.hashtextextended(pg_catalog.concat_ws(',', p.polrelid, p.polname, p.polqual, p.polwithcheck), 0)\
   ::pg_catalog.numeric) FROM pg_catalog.pg_policy p), \
 (SELECT pg_catalog.sum(pg_catalog.hashtextextended(\
   pg_catalog.concat_ws(',', r.rulename, r.ev_class, r.ev_enabled, r.ev_qual, r.ev_action), 0)::pg_catalog.numeric) \
   FROM pg_catalog.pg_rewrite r WHERE r.oid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid), \
 (SELECT pg_catalog.sum(pg_catalog.hashtextextended(pg_catalog.concat_ws(',', i.inhrelid, i.inhparent), 0)\
   ::pg_catalog.numeric) FROM pg_catalog.pg_inherits i), \
 (SELECT pg_catalog.concat_ws('.', pg_catalog.count(*), pg_catalog.max(o.oid)) FROM pg_catalog.pg_operator o \
   WHERE o.oid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid), \
 (SELECT pg_catalog.sum(pg_catalog.hashtextextended(pg_catalog.concat_ws(',', n.oid, n.nspname), 0)\
   ::pg_catalog.numeric) FROM pg_catalog.pg_namespace n \
   WHERE n.nspname OPERATOR(pg_catalog.!~~) 'pg\\_%'), \
 (SELECT pg_catalog.sum(pg_catalog.hashtextextended(pg_catalog.concat_ws(',', d.adrelid, d.adnum, d.adbin), 0)\
   ::pg_catalog.numeric) FROM pg_catalog.pg_attrdef d), \
 (SELECT pg_catalog.sum(pg_catalog.hashtextextended(pg_catalog.concat_ws(',', c.oid, c.relname, c.relnamespace), 0)\
   ::pg_catalog.numeric) FROM pg_catalog.pg_class c WHERE c.relkind OPERATOR(pg_catalog.=) 'S' \
   AND c.relpersistence OPERATOR(pg_catalog.<>) 't'), \
 (SELECT s.reset_val FROM pg_catalog.pg_settings s WHERE s.name OPERATOR(pg_catalog.=) 'search_path'))";
