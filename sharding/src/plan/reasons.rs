//! The words of every refusal: why not, and what would work.

use crate::refusal::Refusal;

fn no(message: impl Into<String>, hint: impl Into<String>) -> Refusal {
    Refusal::unsupported(message.into(), hint.into())
}

pub(crate) fn view(name: &str) -> Refusal {
    no(
        format!("view \"{name}\" is not looked into, so its rows cannot be placed"),
        format!(
            "Query its tables, or say with tables.{name} in the configuration that each of its rows belongs to one key."
        ),
    )
}

pub(crate) fn locks_too_many() -> Refusal {
    no(
        "FOR UPDATE or FOR SHARE with LIMIT or OFFSET over several shards would lock rows that are not in the answer",
        "Name one value of the sharding key, or choose the rows first and lock them by their keys.",
    )
}

pub(crate) fn locks_copies(name: &str) -> Refusal {
    no(
        format!("FOR UPDATE or FOR SHARE over several shards would lock \"{name}\" on some of them only"),
        "Say with OF which sharded tables are to be locked.",
    )
}

pub(crate) fn insert_without_key(table: &str, key: &str) -> Refusal {
    no(
        format!("INSERT into sharded table \"{table}\" does not give its sharding key \"{key}\""),
        format!("Add column \"{key}\" with a value to the INSERT."),
    )
}

pub(crate) fn insert_unknown_key(table: &str, key: &str) -> Refusal {
    no(
        format!(
            "the value of sharding key \"{key}\" for INSERT into \"{table}\" is not known before the statement runs"
        ),
        "Give it as a literal or a parameter of the column's type.",
    )
}

pub(crate) fn changes_key(key: &str) -> Refusal {
    no(
        format!("changing sharding key \"{key}\" would move the row to another shard"),
        "Change it by an UPDATE of its own, or insert the row under its new key and delete the old one in a transaction.",
    )
}

pub(crate) fn moves_unclear() -> Refusal {
    no(
        "an UPDATE that changes the sharding key cannot be this involved",
        "Assign each column by itself, to a value or a subquery, without CTEs that write.",
    )
}

pub(crate) fn moves_returning() -> Refusal {
    no(
        "RETURNING of an UPDATE that changes the sharding key gives columns of its own table only, and not the time",
        "Name columns of the updated table, and read the rest before.",
    )
}

pub(crate) fn merge(table: &str) -> Refusal {
    no(
        format!("MERGE into sharded table \"{table}\" is not supported over several shards"),
        "Use INSERT ... ON CONFLICT, or UPDATE and INSERT with the sharding key.",
    )
}

pub(crate) fn several_homes(first: &str, second: &str) -> Refusal {
    no(
        format!("\"{first}\" and \"{second}\" live on different shards"),
        "Query them one by one, or keep them on one shard.",
    )
}

pub(crate) fn copies_differ(table: &str, what: &str) -> Refusal {
    no(
        format!("with {what} the copies of reference table \"{table}\" would differ between the shards"),
        "Compute the value first, then write it as a literal or a parameter.",
    )
}

pub(crate) fn copies_without_key(table: &str, what: &str) -> Refusal {
    no(
        format!(
            "with {what} the copies of reference table \"{table}\" would differ between the shards, and without a primary key its rows \
             cannot be told apart"
        ),
        "Give the table a primary key, or compute the value first and write it as a literal or a parameter.",
    )
}

pub(crate) fn copies_lose_key(table: &str, column: &str, what: &str) -> Refusal {
    no(
        format!(
            "with {what} the copies of reference table \"{table}\" would differ between the shards, and their rows could not be found again \
             when \"{column}\" of its primary key changes"
        ),
        "Change the primary key in an UPDATE of its own, or compute the value first and write it as a literal or a parameter.",
    )
}

pub(crate) fn several_targets() -> Refusal {
    no(
        "writing several tables in one statement is not supported over several shards",
        "Write them one after another in a transaction.",
    )
}

pub(crate) fn reader(function: &str) -> Refusal {
    no(
        format!("function {function}() may read or write tables, which are spread over several shards"),
        "Write its query in the statement, or declare the function IMMUTABLE if it looks at its arguments only.",
    )
}

pub(crate) fn home_function(function: &str, table: &str) -> Refusal {
    no(
        format!("{function}() belongs to the first shard and cannot be used together with sharded table \"{table}\""),
        "Call it in a statement of its own and pass the result as a parameter.",
    )
}

pub(crate) fn local_and_sharded(local: &str, sharded: &str) -> Refusal {
    no(
        format!("local table \"{local}\" is on one shard, the rows of \"{sharded}\" are on others"),
        "Query the tables one by one, or make the local one a reference table.",
    )
}

pub(crate) fn write_many(verb: &str, why: &Refusal) -> Refusal {
    let refusal = no(format!("{verb} concerns rows on several shards"), "Run one statement for each key.");
    refusal.with_detail(format!("It cannot be split: {}.", why.message))
}

pub(crate) fn read_many(why: &Refusal) -> Refusal {
    let mut refusal = why.clone();
    refusal.detail = Some("The keys of the statement are on several shards.".into());
    refusal
}

pub(crate) fn not_tied(table: &str) -> Refusal {
    no(
        format!("\"{table}\" is not tied to the sharding key of the other tables"),
        "Join the tables on their sharding keys, or compare the sharding key of each with a value.",
    )
}

pub(crate) fn spread(what: &str) -> Refusal {
    no(
        format!("{what} is not supported over several shards"),
        "Compare the sharding key with a literal or a parameter, so that one shard can answer.",
    )
}

pub(crate) fn differs(what: &str) -> Refusal {
    no(
        format!("{what} would give another value on every shard"),
        "Pass the value as a parameter, or compare the sharding key with a value, so that one shard can answer.",
    )
}

pub(crate) fn staged_read(cte: &str, table: &str) -> Refusal {
    no(
        format!(
            "what reads \"{table}\" behind \"{cte}\" would see over several shards what \"{cte}\" has written there"
        ),
        "Read it in a statement before this one, or use what the CTE returns.",
    )
}

pub(crate) fn staged_write(cte: &str, table: &str) -> Refusal {
    no(
        format!(
            "\"{table}\" is written by \"{cte}\" and again by what follows, which would see over several shards what it has done"
        ),
        "Write them one after another in a transaction; or use INSERT ... ON CONFLICT, or MERGE.",
    )
}

pub(crate) fn staged_view(view: &str) -> Refusal {
    no(
        format!("view \"{view}\" is not looked into beside a CTE that writes, over several shards"),
        "Name its tables, or run the CTE's write by itself first, in the same transaction.",
    )
}

pub(crate) fn staged_value(column: &str) -> Refusal {
    no(
        format!("the values of column \"{column}\", which a CTE returns, cannot be handed to other shards"),
        "Return other columns, or cast it to text.",
    )
}

pub(crate) fn staged_collation(column: &str) -> Refusal {
    no(
        format!("the collation of \"{column}\", which a CTE that writes returns, is not known over several shards"),
        "Return columns as they are, and compute what follows from them outside of the CTE.",
    )
}

/// Ids would come from the sequence of every shard.
pub(crate) fn default_of_rows(table: &str, column: &str) -> Refusal {
    no(
        format!("the default of column \"{column}\" of \"{table}\" would be evaluated by every shard for itself"),
        format!("Insert with VALUES, or give values for \"{column}\"."),
    )
}

pub(crate) fn unique_id() -> Refusal {
    no(
        "sluice.unique_id() gives one value for each row of VALUES, or for a SELECT without FROM",
        "Get the ids first, then use them as parameters.",
    )
}

pub(crate) fn sequence_by_name(function: &str) -> Refusal {
    no(
        format!(
            "{function}() of a sequence that is not named in the text is not supported in an INSERT over several shards"
        ),
        "Write the name of the sequence as a literal, or get its value with a SELECT first.",
    )
}

/// As PostgreSQL says it.
pub(crate) fn generated_always(column: &str) -> Refusal {
    Refusal::error("428C9", format!("cannot insert a non-DEFAULT value into column \"{column}\""))
        .with_detail(format!("Column \"{column}\" is an identity column defined as GENERATED ALWAYS."))
        .with_hint("Use OVERRIDING SYSTEM VALUE to override.")
}

pub(crate) fn both_values() -> Refusal {
    no(
        "nextval() and what it gave before are asked for in one INSERT",
        "Ask for currval() or lastval() first, and pass the value as a parameter.",
    )
}

pub(crate) fn temporary() -> Refusal {
    no("temporary tables are not supported over several shards", "Use a CTE, or a table with the sharding key.")
}

pub(crate) fn create_table_as(table: &str) -> Refusal {
    no(
        format!("filling new table \"{table}\" from a query is not supported over several shards"),
        "CREATE TABLE, then INSERT ... SELECT; or let the query show the sharding key of tables that are joined by it, under the name of the new table's.",
    )
}

pub(crate) fn materialized(view: &str) -> Refusal {
    no(
        format!("each shard would fill materialized view \"{view}\" from its own rows alone"),
        "Use a view; or a table that INSERT ... SELECT fills; or let the query show the sharding key of tables that are joined by it.",
    )
}

pub(crate) fn renamed(old: &str, new: &str) -> Refusal {
    no(
        format!("renaming \"{old}\" to \"{new}\": the configuration would look for its rows elsewhere"),
        format!(
            "Give the new name the entry of the old one in the configuration (tables.\"{new}\"), RELOAD, then rename."
        ),
    )
}

pub(crate) fn rule(table: &str) -> Refusal {
    no(
        format!("a rule on \"{table}\" would run statements on each shard that the router does not see"),
        "Write these statements in the application, or use a trigger that looks at its own row only.",
    )
}

pub(crate) fn hazard(table: &str, what: &str, why: &str) -> Refusal {
    no(
        format!("{what} of \"{table}\" would act on each shard by itself, and {why}"),
        format!("Do in the application what it does, then drop it or ALTER TABLE {table} DISABLE it."),
    )
}

pub(crate) fn key_follows(table: &str, key: &str) -> Refusal {
    no(
        format!("ON UPDATE would change sharding key \"{key}\" of \"{table}\" and leave the rows on their old shards"),
        "Leave ON UPDATE out, or make the referenced table sharded by the referenced column.",
    )
}

pub(crate) fn kind_changes(table: &str) -> Refusal {
    no(
        format!("table \"{table}\" has rows, which its new columns would place on other shards"),
        "Create a new table with the wanted columns, copy the rows into it, then drop this one.",
    )
}

pub(crate) fn shared_default(table: &str, column: &str) -> Refusal {
    no(
        format!(
            "the default of new column \"{column}\" would be another value on every shard for the rows that \"{table}\" has"
        ),
        format!(
            "Add the column with a constant (or without a default), then ALTER TABLE ... ALTER COLUMN {column} SET DEFAULT, which is for new rows only."
        ),
    )
}

pub(crate) fn counted_default(table: &str, column: &str) -> Refusal {
    no(
        format!("every shard would number the rows that \"{table}\" has in new column \"{column}\" by itself"),
        "Add the column as bigint, number the rows by UPDATE, then set its default.",
    )
}

pub(crate) fn scattered(problem: &str) -> Refusal {
    no(
        format!("the router could not place the rows: {problem}"),
        "Change the configuration (tables.NAME) first and RELOAD.",
    )
}

pub(crate) fn trigger(table: &str, function: &str, what: &str) -> Refusal {
    no(
        format!("a trigger on \"{table}\" that calls {function}() would run on one shard, and the function {what}"),
        "Let it look at its own row only, or at sharded tables by the row's sharding key; do the rest in the application.",
    )
}

pub(crate) fn unique_without_key(what: &str, table: &str, key: &str) -> Refusal {
    no(
        format!("{what} of sharded table \"{table}\" does not contain its sharding key \"{key}\""),
        format!("Add \"{key}\" to it: each shard sees only its own rows, so it cannot hold over all of them."),
    )
}

pub(crate) fn foreign_key(table: &str, referenced: &str) -> Refusal {
    no(
        format!("a foreign key from \"{table}\" to \"{referenced}\" would look for rows on other shards"),
        "Reference a reference table, or a table sharded by the same key with both sharding keys in the foreign key.",
    )
}

pub(crate) fn key_column(what: &str, column: &str) -> Refusal {
    no(
        format!("{what} sharding key \"{column}\" would leave the rows without their shard"),
        "Create a new table with the wanted key and move the rows.",
    )
}

pub(crate) fn utility(what: &str, hint: &str) -> Refusal {
    no(format!("{what} is not supported over several shards"), hint)
}

pub(crate) fn language_order(what: &str) -> Refusal {
    no(
        format!("ORDER BY {what} follows a language's rules, which the router does not know"),
        format!(
            "Write ORDER BY {what} COLLATE \"C\", or compare the sharding key with a value, so that one shard can answer."
        ),
    )
}

pub(crate) fn aggregate(name: &str) -> Refusal {
    no(
        format!("the partial results of {name} on several shards cannot be combined"),
        "Group by the sharding key, or compare it with a value, so that one shard can answer.",
    )
}

pub(crate) fn unknown_target(table: &str) -> Refusal {
    Refusal::error("42P01", format!("relation \"{table}\" does not exist"))
        .with_hint("If it was created a moment ago, the router knows it once that is committed.")
}

pub(crate) fn current_of_copies() -> Refusal {
    no(
        "WHERE CURRENT OF on a reference table would change the copy of one shard alone",
        "Name the row by its primary key.",
    )
}

pub(crate) fn current_of_moves() -> Refusal {
    no("WHERE CURRENT OF cannot change the sharding key over several shards", "Name the row by its primary key.")
}

pub(crate) fn current_of_others() -> Refusal {
    no(
        "WHERE CURRENT OF in a statement that reads other rows is not supported over several shards",
        "Read them in a statement of their own before.",
    )
}

pub(crate) fn table_with_parameters() -> Refusal {
    no(
        "filling a new table from a query with parameters is not supported over several shards",
        "CREATE TABLE, then INSERT ... SELECT with the parameters; or write the values into the text.",
    )
}

pub(crate) fn select_into() -> Refusal {
    no("SELECT INTO is not supported over several shards", "Create the table, then insert the rows.")
}

/// A table that the catalog does not have: nobody can say on which shards its rows are.
pub(crate) fn no_such_table(table: &str) -> Refusal {
    Refusal::error("42P01", format!("relation \"{table}\" does not exist"))
        .with_hint("If it does, the router cannot use it: see SHOW PROBLEMS in the console.")
}

/// A final query is handed the rows, and cannot be handed this.
pub(crate) fn cannot_cross(column: &str, table: &str) -> Refusal {
    no(
        format!("the values of column \"{column}\" of \"{table}\" cannot be handed to another shard"),
        "Leave the column out (no *), or compare the sharding key with a value, so that one shard can answer.",
    )
}

pub(crate) fn whole_row(table: &str) -> Refusal {
    no(
        format!("\"{table}\" as a whole row is not supported over several shards"),
        "Name its columns, or compare the sharding key with a value, so that one shard can answer.",
    )
}
