//! The type OIDs that never change between PostgreSQL versions.

use std::borrow::Cow;

pub const BOOL: u32 = 16;
pub const BYTEA: u32 = 17;
pub const CHAR: u32 = 18;
pub const NAME: u32 = 19;
pub const INT8: u32 = 20;
pub const INT2: u32 = 21;
pub const INT4: u32 = 23;
pub const TEXT: u32 = 25;
pub const OID: u32 = 26;
pub const CIDR: u32 = 650;
pub const FLOAT4: u32 = 700;
pub const FLOAT8: u32 = 701;
pub const UNKNOWN: u32 = 705;
pub const MACADDR8: u32 = 774;
pub const MONEY: u32 = 790;
pub const MACADDR: u32 = 829;
pub const INET: u32 = 869;
pub const BPCHAR: u32 = 1042;
pub const VARCHAR: u32 = 1043;
pub const DATE: u32 = 1082;
pub const TIME: u32 = 1083;
pub const TIMESTAMP: u32 = 1114;
pub const TIMESTAMPTZ: u32 = 1184;
pub const INTERVAL: u32 = 1186;
pub const TIMETZ: u32 = 1266;
pub const BIT: u32 = 1560;
pub const VARBIT: u32 = 1562;
pub const NUMERIC: u32 = 1700;
pub const UUID: u32 = 2950;
pub const PG_LSN: u32 = 3220;

/// What PostgreSQL calls a type in its messages, as far as that is known without asking.
pub fn name(type_oid: u32) -> Cow<'static, str> {
    Cow::Borrowed(match type_oid {
        BOOL => "boolean",
        BYTEA => "bytea",
        CHAR => "\"char\"",
        NAME => "name",
        INT8 => "bigint",
        INT2 => "smallint",
        INT4 => "integer",
        TEXT => "text",
        OID => "oid",
        114 => "json",
        142 => "xml",
        600 => "point",
        CIDR => "cidr",
        FLOAT4 => "real",
        FLOAT8 => "double precision",
        UNKNOWN => "unknown",
        MACADDR8 => "macaddr8",
        MONEY => "money",
        MACADDR => "macaddr",
        INET => "inet",
        1000..=1028 | 1182 | 1185 | 1231 | 2951 | 3807 => return Cow::Owned(format!("array (type OID {type_oid})")),
        BPCHAR => "character",
        VARCHAR => "character varying",
        DATE => "date",
        TIME => "time without time zone",
        TIMESTAMP => "timestamp without time zone",
        TIMESTAMPTZ => "timestamp with time zone",
        INTERVAL => "interval",
        TIMETZ => "time with time zone",
        BIT => "bit",
        VARBIT => "bit varying",
        NUMERIC => "numeric",
        2249 => "record",
        UUID => "uuid",
        PG_LSN => "pg_lsn",
        3614 => "tsvector",
        3802 => "jsonb",
        _ => return Cow::Owned(format!("type OID {type_oid}")),
    })
}
