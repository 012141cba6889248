//! Where the parts of a statement stand in its text.

use std::ops::Range;

use super::lex::{Lexer, Token, TokenKind};
use super::{Execute, Prepare};

/// Brackets around conditions are looked into this deep.
const CONDITION_DEPTH_MAX: usize = 8;

/// Where the statement begins that an EXPLAIN explains.
pub(crate) fn explained(text: &str, span: &Range<usize>) -> usize {
    let mut tokens = Lexer::starting_at(&text[..span.end], span.start).skip(1).peekable();
    let is = |token: &Token, word: &str| text[token.start..token.end].eq_ignore_ascii_case(word);
    if tokens.peek().is_some_and(|token| is(token, "(")) && !opens_query(text, tokens.clone().skip(1)) {
        let mut depth = 0;
        for token in tokens.by_ref() {
            depth += i32::from(is(&token, "(")) - i32::from(is(&token, ")"));
            if depth == 0 {
                break;
            }
        }
    } else {
        while tokens.next_if(|token| is(token, "analyze") || is(token, "analyse") || is(token, "verbose")).is_some() {}
    }
    tokens.next().map_or(span.end, |token| token.start)
}

/// Where the query of a DECLARE begins; the only word FOR before it is the one that announces it.
pub(crate) fn declared(text: &str, span: &Range<usize>) -> usize {
    let mut tokens = Lexer::starting_at(&text[..span.end], span.start);
    tokens.find(|token| text[token.start..token.end].eq_ignore_ascii_case("for"));
    tokens.next().map_or(span.end, |token| token.start)
}

/// The query of a CREATE VIEW; `None` when the columns get names of their own, or it has a check option.
pub(crate) fn view_query(text: &str, span: &Range<usize>) -> Option<Range<usize>> {
    let tokens: Vec<Token> = Lexer::starting_at(&text[..span.end], span.start).collect();
    let is = |token: &Token, word: &str| text[token.start..token.end].eq_ignore_ascii_case(word);
    let at = tokens.iter().position(|token| is(token, "as"))?;
    let plain =
        !tokens[..at].iter().any(|token| is(token, "(")) && !tokens.last().is_some_and(|last| is(last, "option"));
    range(&tokens[at + 1..]).filter(|_| plain)
}

/// The query of CREATE TABLE AS and CREATE MATERIALIZED VIEW.
pub(crate) fn filling_query(text: &str, span: &Range<usize>) -> Option<Range<usize>> {
    let tokens: Vec<Token> = Lexer::starting_at(&text[..span.end], span.start).collect();
    let is = |token: &Token, word: &str| text[token.start..token.end].eq_ignore_ascii_case(word);
    let at = tokens.iter().position(|token| is(token, "as"))?;
    let mut end = tokens.len();
    // WITH DATA and WITH NO DATA belong to the statement, not to its query.
    if end > 2 && is(&tokens[end - 1], "data") {
        end -= if is(&tokens[end - 2], "no") { 3 } else { 2 };
    }
    range(tokens.get(at + 1..end)?)
}

/// The parts of a CREATE TABLE AS.
pub(crate) struct CreatedTable {
    pub name: Range<usize>,
    /// `IF NOT EXISTS `
    pub condition: Option<Range<usize>>,
    pub query: Range<usize>,
}

/// Where the parts of a CREATE TABLE AS stand.
pub(crate) fn created_table(text: &str) -> Option<CreatedTable> {
    let span = 0..text.len();
    let query = filling_query(text, &span)?;
    let tokens: Vec<Token> = Lexer::new(&text[..query.start]).collect();
    let is = |token: &Token, word: &str| text[token.start..token.end].eq_ignore_ascii_case(word);
    let at = tokens.iter().position(|token| is(token, "table"))? + 1;
    let has_condition = tokens.get(at).is_some_and(|token| is(token, "if"));
    let name = tokens.get(if has_condition { at + 3 } else { at })?.start;
    let condition = has_condition.then(|| tokens[at].start..name);
    Some(CreatedTable { name: name..table_name_end(text, &span, name)?, condition, query })
}

/// The parts of a SELECT INTO.
pub(crate) struct IntoClause {
    /// From INTO to the name, with white space behind it.
    pub clause: Range<usize>,
    pub name: Range<usize>,
    pub unlogged: bool,
    /// Where the statement ends: comments may follow.
    pub end: usize,
}

/// Where the INTO of a SELECT stands; the word is reserved, so that it is nothing else.
pub(crate) fn into_clause(text: &str) -> Option<IntoClause> {
    let tokens: Vec<Token> = Lexer::new(text).collect();
    let is = |token: &Token, word: &str| text[token.start..token.end].eq_ignore_ascii_case(word);
    let mut depth = 0;
    let into = tokens.iter().position(|token| {
        depth += i32::from(is(token, "(")) - i32::from(is(token, ")"));
        depth == 0 && is(token, "into")
    })?;
    let mut at = into + 1;
    let unlogged = tokens.get(at).is_some_and(|token| is(token, "unlogged"));
    at += usize::from(unlogged);
    at += usize::from(tokens.get(at).is_some_and(|token| is(token, "table")));
    let name = tokens.get(at)?.start;
    let name = name..table_name_end(text, &(0..text.len()), name)?;
    let behind = tokens.iter().find(|token| token.start >= name.end).map_or(text.len(), |token| token.start);
    let end = tokens.last()?.end;
    Some(IntoClause { clause: tokens[into].start..behind.min(end), name, unlogged, end })
}

/// The query of `COPY (query) TO`.
pub(crate) fn copied(text: &str, span: &Range<usize>) -> Option<Range<usize>> {
    let tokens: Vec<Token> = Lexer::starting_at(&text[..span.end], span.start).collect();
    let word = |index: usize| tokens.get(index).map_or("", |token| &text[token.start..token.end]);
    let close = closing(&word, 1, tokens.len()).filter(|_| word(1) == "(")?;
    range(&tokens[2..close])
}

/// `EXPLAIN (SELECT ...)` has no options.
fn opens_query(text: &str, mut tokens: impl Iterator<Item = Token>) -> bool {
    let first = tokens.find(|token| &text[token.start..token.end] != "(");
    first.is_some_and(|token| {
        token.kind == TokenKind::Word
            && ["select", "values", "with", "table"]
                .iter()
                .any(|word| text[token.start..token.end].eq_ignore_ascii_case(word))
    })
}

/// Where the name of a table ends that begins at `at`, with schema, and with the `*` that stands for its descendants.
pub(crate) fn table_name_end(text: &str, span: &Range<usize>, at: usize) -> Option<usize> {
    let mut tokens = Lexer::starting_at(&text[..span.end], at).peekable();
    let is = |token: &Token, mark: &str| &text[token.start..token.end] == mark;
    let mut end = tokens.next()?.end;
    while tokens.next_if(|token| is(token, ".")).is_some() {
        end = tokens.next()?.end;
    }
    Some(tokens.next_if(|token| is(token, "*")).map_or(end, |star| star.end))
}

/// A table as it is written in FROM, with schema, with ONLY and its brackets, with the `*` that stands for its descendants.
pub(crate) fn table(text: &str, span: &Range<usize>, at: usize, only: bool) -> Option<Range<usize>> {
    let end = table_name_end(text, span, at)?;
    if !only {
        return Some(at..end);
    }
    let before: Vec<Token> = Lexer::starting_at(&text[..at], span.start).collect();
    let is = |token: &Token, word: &str| text[token.start..token.end].eq_ignore_ascii_case(word);
    match before.as_slice() {
        [.., word] if is(word, "only") => Some(word.start..end),
        [.., word, open] if is(word, "only") && is(open, "(") => {
            let close = Lexer::starting_at(&text[..span.end], end).next().filter(|token| is(token, ")"))?;
            Some(word.start..close.end)
        }
        _ => None,
    }
}

/// Where `TABLE name` begins, for which `SELECT * FROM name` can stand, if the table at `place` is written so.
pub(crate) fn table_command(text: &str, span: &Range<usize>, place: &Range<usize>) -> Option<usize> {
    let before = Lexer::starting_at(&text[..place.start], span.start).last()?;
    text[before.start..before.end].eq_ignore_ascii_case("table").then_some(before.start)
}

/// Where `schema.` stands before `name.column` and `name.*`.
pub(crate) fn schemas_of_columns(
    text: &str,
    span: &Range<usize>,
    schema: &str,
    name: &str,
) -> impl Iterator<Item = Range<usize>> {
    let tokens: Vec<Token> = Lexer::starting_at(&text[..span.end], span.start).collect();
    let word = |index: usize| tokens.get(index).map_or("", |token| &text[token.start..token.end]);
    let is = |index: usize, name: &str| identifier(word(index)).is_some_and(|found| found == name);
    let stands_at = |index: usize| {
        let dots = [1, 3].iter().all(|ahead| word(index + ahead) == ".");
        let first = index == 0 || word(index - 1) != ".";
        first && dots && is(index, schema) && is(index + 2, name)
    };
    let found: Vec<_> =
        (0..tokens.len()).filter(|index| stands_at(*index)).map(|at| tokens[at].start..tokens[at + 2].start).collect();
    found.into_iter()
}

/// What a name stands for: folded to lower case, or as it is between quotes; none for those with escapes.
fn identifier(word: &str) -> Option<String> {
    match word.strip_prefix('"') {
        Some(quoted) => quoted.strip_suffix('"').map(|name| name.replace("\"\"", "\"")),
        None => Some(word.to_ascii_lowercase()),
    }
}

/// A part of a text with other pieces in the place of some. Equal edits count once; others do not overlap.
pub(crate) fn spliced(text: &str, part: Range<usize>, mut edits: Vec<(Range<usize>, String)>) -> String {
    edits.sort_by_key(|(place, _)| place.start);
    edits.dedup();
    let mut new = String::with_capacity(part.len() + edits.iter().map(|(_, piece)| piece.len()).sum::<usize>());
    let mut at = part.start;
    for (place, piece) in edits {
        new.push_str(&text[at..place.start]);
        new.push_str(&piece);
        at = place.end;
    }
    new.push_str(&text[at..part.end]);
    new
}

/// The conditions that AND joins in the WHERE of the SELECT whose FROM has something at `at`; `None` when it has no plain form.
pub(crate) fn conditions(text: &str, span: &Range<usize>, at: usize) -> Option<Vec<Range<usize>>> {
    let word = |token: &Token| text[token.start..token.end].to_ascii_lowercase();
    let mut depth = brackets_since_from(text, span, at);
    let mut tokens = Lexer::starting_at(&text[..span.end], at);
    let mut before = String::new();
    loop {
        let is_name = before == ".";
        before = word(&tokens.next()?);
        match before.as_str() {
            _ if is_name => continue,
            "(" => depth += 1,
            ")" => depth -= 1,
            "where" if depth == 0 => break,
            _ => {}
        }
        if depth < 0 || depth == 0 && ends_condition(&before) {
            return None;
        }
    }
    joined_by_and(text, tokens, |word, _| ends_condition(word))
}

/// The conditions that AND joins in the ON behind the table whose name begins at `at`; `None` when it has no plain form.
pub(crate) fn join_conditions(text: &str, span: &Range<usize>, at: usize) -> Option<Vec<Range<usize>>> {
    let word = |token: &Token| text[token.start..token.end].to_ascii_lowercase();
    let mut depth = 0i32;
    let mut tokens = Lexer::starting_at(&text[..span.end], at);
    loop {
        let token = tokens.next()?;
        match word(&token).as_str() {
            "(" => depth += 1,
            ")" => depth -= 1,
            "on" if depth == 0 => break,
            _ => {}
        }
        let word = word(&token);
        if depth < 0 || depth == 0 && (word == "," || ends_condition(&word) || ends_join(&word, "")) {
            return None;
        }
    }
    joined_by_and(text, tokens, |word, next| word == "," || ends_condition(word) || ends_join(word, next))
}

/// What AND joins in a clause that begins with `tokens`. `ends` is asked of a word and the one behind it whether the clause is over.
fn joined_by_and(text: &str, tokens: Lexer<'_>, ends: impl Fn(&str, &str) -> bool) -> Option<Vec<Range<usize>>> {
    let word = |token: &Token| text[token.start..token.end].to_ascii_lowercase();
    let mut clause = Vec::new();
    let mut depth = 0i32;
    let mut before = String::new();
    let mut tokens = tokens.peekable();
    while let Some(token) = tokens.next() {
        let next = tokens.peek().map_or_else(String::new, word);
        let is_name = before == ".";
        before = word(&token);
        match before.as_str() {
            _ if is_name => {}
            "(" | "[" | "case" => depth += 1,
            ")" | "]" | "end" => depth -= 1,
            other if depth == 0 && ends(other, &next) => break,
            _ => {}
        }
        if depth < 0 {
            break;
        }
        clause.push(token);
    }
    let mut found = Vec::new();
    flatten(text, &clause, CONDITION_DEPTH_MAX, &mut found)?;
    Some(found)
}

/// The conditions that AND joins, also those that stand between brackets together.
fn flatten(text: &str, tokens: &[Token], depth_max: usize, found: &mut Vec<Range<usize>>) -> Option<()> {
    let parts = and_parts(text, tokens)?;
    if let [single] = parts.as_slice() {
        match inside_brackets(text, single).filter(|_| depth_max > 0) {
            Some(inside) => return flatten(text, inside, depth_max - 1, found),
            None => found.push(range(single)?),
        }
        return Some(());
    }
    for part in parts {
        flatten(text, part, depth_max, found)?;
    }
    Some(())
}

/// What stands between the brackets around a condition, unless it is a query, a row, or joined by OR.
fn inside_brackets<'t>(text: &str, tokens: &'t [Token]) -> Option<&'t [Token]> {
    let word = |index: usize| tokens.get(index).map_or("", |token| &text[token.start..token.end]);
    let closed = word(0) == "(" && closing(&word, 0, tokens.len())? + 1 == tokens.len();
    let inside = tokens.get(1..tokens.len() - 1).filter(|inside| closed && !inside.is_empty())?;
    let mut depth = 0;
    let mut before = String::new();
    for (index, token) in inside.iter().enumerate() {
        let is_name = before == ".";
        before = text[token.start..token.end].to_ascii_lowercase();
        match before.as_str() {
            _ if is_name => {}
            "(" | "[" | "case" => depth += 1,
            ")" | "]" | "end" => depth -= 1,
            "or" | "," if depth == 0 => return None,
            "select" | "values" | "with" | "table" if index == 0 => return None,
            _ => {}
        }
    }
    Some(inside)
}

/// Tokens cut at each AND that joins conditions, and not the ends of BETWEEN.
fn and_parts<'t>(text: &str, tokens: &'t [Token]) -> Option<Vec<&'t [Token]>> {
    let (mut parts, mut start) = (Vec::new(), 0);
    // Of CASE and of brackets, where AND joins something else.
    let (mut depth, mut betweens) = (0i32, 0);
    let mut before = String::new();
    for (index, token) in tokens.iter().enumerate() {
        let is_name = before == ".";
        before = text[token.start..token.end].to_ascii_lowercase();
        match before.as_str() {
            _ if is_name => {}
            "(" | "[" | "case" => depth += 1,
            ")" | "]" | "end" => depth -= 1,
            "between" if depth == 0 => betweens += 1,
            "and" if depth == 0 && betweens > 0 => betweens -= 1,
            "and" if depth == 0 => {
                parts.push(&tokens[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    parts.push(&tokens[start..]);
    parts.iter().all(|part| !part.is_empty()).then_some(parts)
}

/// How many brackets of joins are open at `at`, an item of a FROM.
fn brackets_since_from(text: &str, span: &Range<usize>, at: usize) -> i32 {
    // Whether there was a FROM since each bracket that is open.
    let mut from_seen = vec![false];
    for token in Lexer::starting_at(&text[..at], span.start) {
        match &text[token.start..token.end] {
            "(" => from_seen.push(false),
            ")" => {
                from_seen.pop();
            }
            word if word.eq_ignore_ascii_case("from") => {
                from_seen.last_mut().into_iter().for_each(|seen| *seen = true);
            }
            _ => {}
        }
    }
    let open = from_seen.iter().rev().position(|seen| *seen).unwrap_or(0);
    i32::try_from(open).unwrap_or(0)
}

/// Words with which another join begins, or another clause of the same one. Some are names of functions too; of those, `join` is none
/// of PostgreSQL's own, and more often than it a subquery is joined.
fn ends_join(word: &str, next: &str) -> bool {
    match word {
        "on" | "using" | "where" | "join" => true,
        "cross" | "natural" | "inner" => next != "(",
        "left" | "right" | "full" => matches!(next, "join" | "outer"),
        _ => false,
    }
}

/// A place where a statement asks for the time its transaction began, and what it makes of it.
struct Clock {
    place: Range<usize>,
    /// The casts of the `timestamptz` that give the same.
    casts: String,
}

/// A query with one more CTE before the others.
pub fn with_cte(text: &str, cte: &str) -> String {
    let mut tokens = Lexer::starting_at(text, 0);
    let is = |token: &Token, word: &str| text[token.start..token.end].eq_ignore_ascii_case(word);
    match tokens.next() {
        Some(with) if is(&with, "with") => {
            let recursive = tokens.next().filter(|token| is(token, "recursive"));
            let end = recursive.map_or(with.end, |token| token.end);
            format!("{} {cte},{}", &text[..end], &text[end..])
        }
        _ => format!("WITH {cte} {text}"),
    }
}

/// How far from the beginning of a statement its own INSERT stands, behind a WITH and before `end`.
pub(crate) fn insert_word(text: &str, span: &Range<usize>, end: usize) -> Option<usize> {
    let mut depth = 0;
    let mut tokens = Lexer::starting_at(&text[..end], span.start);
    tokens.find_map(|token| match &text[token.start..token.end] {
        "(" => {
            depth += 1;
            None
        }
        ")" => {
            depth -= 1;
            None
        }
        word => (depth == 0 && word.eq_ignore_ascii_case("insert")).then_some(token.start - span.start),
    })
}

/// How often a statement asks for the time at which its transaction began.
pub(crate) fn clocks(text: &str, span: &Range<usize>) -> usize {
    clocks_in(&text[..span.end], span.start).len()
}

/// Where they stand, each with the casts of a `timestamptz` that give the same.
pub(crate) fn clock_places(text: &str, span: &Range<usize>) -> Vec<(Range<usize>, String)> {
    clocks_in(&text[..span.end], span.start).into_iter().map(|clock| (clock.place, clock.casts)).collect()
}

/// A text in which a parameter, a `timestamptz`, tells the time at which the transaction began.
pub fn with_clock(text: &str, param: usize) -> String {
    let mut told = String::with_capacity(text.len() + 32);
    let mut at = 0;
    for clock in clocks_in(text, 0) {
        told.push_str(&text[at..clock.place.start]);
        told.push_str(&format!("${param}::pg_catalog.timestamptz{}", clock.casts));
        at = clock.place.end;
    }
    told.push_str(&text[at..]);
    told
}

fn clocks_in(text: &str, start: usize) -> Vec<Clock> {
    let tokens: Vec<Token> = Lexer::starting_at(text, start).collect();
    let word = |index: usize| tokens.get(index).map_or("", |token: &Token| &text[token.start..token.end]);
    let mut clocks = Vec::new();
    for (index, token) in tokens.iter().enumerate() {
        let Some(name) = identifier(word(index)).filter(|_| matches!(token.kind, TokenKind::Word | TokenKind::Quoted))
        else {
            continue;
        };
        let qualified = index > 0 && word(index - 1) == ".";
        if matches!(&*name, "now" | "transaction_timestamp") && word(index + 1) == "(" && word(index + 2) == ")" {
            let schema = index.checked_sub(2).map(word).filter(|_| qualified);
            let known = schema.is_none_or(|schema| identifier(schema).is_some_and(|schema| schema == "pg_catalog"));
            let start = if qualified { tokens[index - 2].start } else { token.start };
            if known {
                clocks.push(Clock { place: start..tokens[index + 2].end, casts: String::new() });
            }
            continue;
        }
        let Some(cast) = clock_cast(&name).filter(|_| !qualified && token.kind == TokenKind::Word) else { continue };
        let precise = name != "current_date"
            && word(index + 1) == "("
            && tokens.get(index + 2).is_some_and(|token| token.kind == TokenKind::Integer)
            && word(index + 3) == ")";
        let precision = if precise { format!("({})", word(index + 2)) } else { String::new() };
        let end = if precise { tokens[index + 3].end } else { token.end };
        clocks.push(Clock { place: token.start..end, casts: format!("{cast}{precision}") });
    }
    clocks
}

/// What key words make of the time.
fn clock_cast(word: &str) -> Option<&'static str> {
    match word {
        "current_timestamp" => Some("::pg_catalog.timestamptz"),
        "current_date" => Some("::pg_catalog.date"),
        "current_time" => Some("::pg_catalog.timetz"),
        "localtimestamp" => Some("::pg_catalog.timestamp"),
        "localtime" => Some("::pg_catalog.time"),
        _ => None,
    }
}

/// Where the GROUP BY ends of the SELECT whose FROM has something at `at`; `None` when it has none in plain form.
pub(crate) fn group_end(text: &str, span: &Range<usize>, at: usize) -> Option<usize> {
    let word = |token: &Token| text[token.start..token.end].to_ascii_lowercase();
    let (mut depth, mut end) = (brackets_since_from(text, span, at), None);
    for token in Lexer::starting_at(&text[..span.end], at) {
        let word = word(&token);
        match word.as_str() {
            "(" | "[" => depth += 1,
            ")" | "]" => depth -= 1,
            _ => {}
        }
        match (&mut end, depth) {
            (_, ..0) => break,
            (None, 0) if word == "group" => end = Some(token.end),
            (None, 0) if word != "where" && ends_condition(&word) => return None,
            (Some(_), 0) if word != "group" && ends_condition(&word) => break,
            (Some(end), _) => *end = token.end,
            _ => {}
        }
    }
    end
}

/// Reserved words that can follow a WHERE clause.
fn ends_condition(word: &str) -> bool {
    matches!(
        word,
        "group"
            | "having"
            | "window"
            | "union"
            | "intersect"
            | "except"
            | "order"
            | "limit"
            | "offset"
            | "fetch"
            | "for"
            | ";"
    )
}

/// Where the parts of a PREPARE stand; `None` when they are not found.
pub(crate) fn prepare(text: &str, span: &Range<usize>, name: &str) -> Option<Prepare> {
    let tokens: Vec<Token> = Lexer::starting_at(&text[..span.end], span.start).collect();
    let (at, after) = name_at(text, &tokens, 1)?;
    let word = |index: usize| tokens.get(index).map_or("", |token| &text[token.start..token.end]);
    let (types, after) = match word(after) {
        "(" => {
            let close = closing(&word, after, tokens.len())?;
            (split(text, &tokens[after + 1..close]).len(), close + 1)
        }
        _ => (0, after),
    };
    if !word(after).eq_ignore_ascii_case("as") {
        return None;
    }
    let inner = tokens.get(after + 1)?.start..span.end;
    Some(Prepare { name: name.to_owned(), at, types, inner })
}

/// What stands behind DEFAULT in the definition of a column in a CREATE TABLE, or behind GENERATED if it is an identity.
pub(crate) fn column_default(text: &str, column: &str) -> Option<Range<usize>> {
    const ENDS: [&str; 9] =
        ["not", "null", "primary", "unique", "check", "references", "constraint", "collate", "generated"];
    let tokens: Vec<Token> = Lexer::new(text).collect();
    let word = |index: usize| tokens.get(index).map_or("", |token| &text[token.start..token.end]);
    let open = (0..tokens.len()).find(|index| word(*index) == "(")?;
    let close = closing(&word, open, tokens.len())?;
    let mut depth = 0;
    let mut of_column = identifier(word(open + 1)).is_some_and(|name| name == column);
    let mut start = None;
    for index in open + 1..close {
        let lower = word(index).to_ascii_lowercase();
        match lower.as_str() {
            "(" | "[" => depth += 1,
            ")" | "]" => depth -= 1,
            "," if depth == 0 && start.is_some() => return range(&tokens[start?..index]),
            "," if depth == 0 => of_column = identifier(word(index + 1)).is_some_and(|name| name == column),
            "default" if depth == 0 && of_column && start.is_none() => start = Some(index + 1),
            "generated" if depth == 0 && of_column && start.is_none() => {
                let is_identity = (index + 2..index + 5).any(|at| word(at).eq_ignore_ascii_case("identity"));
                return is_identity.then(|| range(&tokens[index + 1..close]))?;
            }
            end if depth == 0 && ENDS.contains(&end) && start.is_some_and(|start| start < index) => {
                return range(&tokens[start?..index]);
            }
            _ => {}
        }
    }
    range(&tokens[start?..close])
}

/// Where the parts of an EXECUTE stand that begins at byte `start`.
pub(crate) fn execute(text: &str, start: usize, end: usize, name: &str) -> Option<Execute> {
    let tokens: Vec<Token> = Lexer::starting_at(&text[..end], start).collect();
    let (at, after) = name_at(text, &tokens, 1)?;
    let word = |index: usize| tokens.get(index).map_or("", |token| &text[token.start..token.end]);
    let mut execute = Execute { name: name.to_owned(), at, args: None, count: 0 };
    if word(after) == "(" {
        let close = closing(&word, after, tokens.len())?;
        execute.args = Some(tokens[after].end..tokens[close].start);
        execute.count = split(text, &tokens[after + 1..close]).len();
    }
    Some(execute)
}

/// Where the EXECUTE of a CREATE TABLE AS begins.
pub(crate) fn executed(text: &str, span: &Range<usize>) -> Option<usize> {
    let tokens: Vec<Token> = Lexer::starting_at(&text[..span.end], span.start).collect();
    let is = |token: &Token, word: &str| text[token.start..token.end].eq_ignore_ascii_case(word);
    let pair = tokens.windows(2).find(|pair| is(&pair[0], "as") && is(&pair[1], "execute"))?;
    Some(pair[1].start)
}

/// The name that is token `index`, and the token behind it: `U&"..." UESCAPE '!'` takes three.
fn name_at(text: &str, tokens: &[Token], index: usize) -> Option<(Range<usize>, usize)> {
    let name = tokens.get(index)?;
    let escape = tokens.get(index + 1).filter(|token| text[token.start..token.end].eq_ignore_ascii_case("uescape"));
    match escape.and(tokens.get(index + 2)) {
        Some(last) => Some((name.start..last.end, index + 3)),
        None => Some((name.start..name.end, index + 1)),
    }
}

/// Where the clauses of a SELECT stand, as bytes of the whole text.
#[derive(Debug, Default)]
pub(crate) struct SelectSpans {
    /// The words `DISTINCT`, with `ON (...)`.
    pub distinct: Option<Range<usize>>,
    /// What stands in the brackets of DISTINCT ON.
    pub distinct_on: Vec<Range<usize>>,
    pub targets: Vec<Range<usize>>,
    pub group: Vec<Range<usize>>,
    /// Whole clauses, key word included.
    pub having: Option<Range<usize>>,
    pub order: Option<Range<usize>>,
    /// The expressions of ORDER BY, without ASC, DESC, USING and NULLS.
    pub order_items: Vec<Range<usize>>,
    pub limit: Option<Range<usize>>,
    pub offset: Option<Range<usize>>,
    /// Where GROUP BY would go.
    pub rows_end: usize,
    /// Where ORDER BY would go.
    pub body_end: usize,
}

/// The clauses that can follow the target list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Clause {
    Targets,
    /// FROM and WHERE.
    Rows,
    Window,
    Group,
    Having,
    Order,
    Limit,
    Offset,
    Locking,
}

/// The clauses of the outermost SELECT of a statement; `None` when it has no plain form.
pub(crate) fn select(text: &str, span: &Range<usize>, first_target: usize) -> Option<SelectSpans> {
    let tokens: Vec<Token> = Lexer::starting_at(&text[..span.end], span.start).collect();
    let word = |index: usize| tokens.get(index).map_or("", |token| &text[token.start..token.end]);
    let is = |index: usize, expected: &str| word(index).eq_ignore_ascii_case(expected);
    let first = tokens.iter().position(|token| token.start == first_target)?;
    let head = (0..first).rev().find(|index| is(*index, "select"))?;
    let mut spans = SelectSpans::default();
    if is(head + 1, "distinct") {
        spans.distinct = Some(tokens[head + 1].start..tokens[first - 1].end);
        if is(head + 2, "on") {
            spans.distinct_on = split(text, tokens.get(head + 4..first - 1).unwrap_or_default());
        }
    }
    let mut clauses = vec![(Clause::Targets, first, first)];
    let mut depth = 0i32;
    for (index, token) in tokens.iter().enumerate().skip(first) {
        match word(index) {
            "(" | "[" => depth += 1,
            ")" | "]" => depth -= 1,
            _ => {}
        }
        if depth < 0 {
            return None;
        }
        if depth == 0 && token.kind == TokenKind::Word && !(is(index - 1, "as") || is(index - 1, ".")) {
            let clause = match word(index).to_ascii_lowercase().as_str() {
                "from" if is(index - 1, "distinct") => continue,
                "group" if is(index - 1, "within") => continue,
                "from" | "where" => Clause::Rows,
                "window" => Clause::Window,
                "group" => Clause::Group,
                "having" => Clause::Having,
                "order" => Clause::Order,
                "limit" | "fetch" => Clause::Limit,
                "offset" => Clause::Offset,
                "for" => Clause::Locking,
                "union" | "intersect" | "except" | "into" => return None,
                _ => continue,
            };
            let skip = match clause {
                Clause::Group if is(index + 2, "all") || is(index + 2, "distinct") => 3,
                Clause::Group | Clause::Order => 2,
                _ => 1,
            };
            clauses.push((clause, index, index + skip));
        }
    }
    spans.fill(text, &tokens, &clauses)
}

impl SelectSpans {
    fn fill(mut self, text: &str, tokens: &[Token], clauses: &[(Clause, usize, usize)]) -> Option<Self> {
        for (number, (clause, start, content)) in clauses.iter().enumerate() {
            let end = clauses.get(number + 1).map_or(tokens.len(), |next| next.1);
            let whole = tokens[*start].start..tokens[end - 1].end;
            let items = || split(text, tokens.get(*content..end).unwrap_or_default());
            match clause {
                Clause::Targets => self.targets = items(),
                Clause::Rows => self.rows_end = whole.end,
                Clause::Window | Clause::Locking => {}
                Clause::Group => self.group = items(),
                Clause::Having => self.having = Some(whole.clone()),
                Clause::Order => {
                    self.order_items = items().into_iter().map(|item| without_direction(text, item)).collect();
                    self.order = Some(whole.clone());
                }
                Clause::Limit => self.limit = Some(whole.clone()),
                Clause::Offset => self.offset = Some(whole.clone()),
            }
            if !matches!(clause, Clause::Order | Clause::Limit | Clause::Offset | Clause::Locking) {
                self.body_end = whole.end;
            }
        }
        Some(self)
    }
}

/// Cuts tokens at the commas that stand outside of brackets.
fn split(text: &str, tokens: &[Token]) -> Vec<Range<usize>> {
    let mut items = Vec::new();
    let mut depth = 0;
    let mut start = 0;
    for (index, token) in tokens.iter().enumerate() {
        match &text[token.start..token.end] {
            "(" | "[" => depth += 1,
            ")" | "]" => depth -= 1,
            "," if depth == 0 => {
                items.extend(range(&tokens[start..index]));
                start = index + 1;
            }
            _ => {}
        }
    }
    items.extend(range(&tokens[start..]));
    items
}

fn range(tokens: &[Token]) -> Option<Range<usize>> {
    Some(tokens.first()?.start..tokens.last()?.end)
}

fn without_direction(text: &str, item: Range<usize>) -> Range<usize> {
    let tokens: Vec<Token> = Lexer::starting_at(&text[..item.end], item.start).collect();
    let is = |index: Option<usize>, words: &[&str]| {
        index.is_some_and(|index| {
            words.iter().any(|word| text[tokens[index].start..tokens[index].end].eq_ignore_ascii_case(word))
        })
    };
    let mut end = tokens.len();
    // Behind a dot it is a column.
    let is_word = |end: usize, words: &[&str]| {
        is(end.checked_sub(1), words)
            && !end.checked_sub(2).is_some_and(|before| text[tokens[before].start..].starts_with('.'))
    };
    if is_word(end, &["first", "last"]) && is_word(end - 1, &["nulls"]) {
        end -= 2;
    }
    if is_word(end, &["asc", "desc"]) {
        end -= 1;
    } else if is(end.checked_sub(2), &["using"]) {
        end -= 2;
    }
    range(&tokens[..end]).unwrap_or(item)
}

/// The expression of a target without its alias.
pub(crate) fn without_alias(text: &str, target: &Range<usize>) -> Option<Range<usize>> {
    let mut tokens: Vec<Token> = Lexer::starting_at(&text[..target.end], target.start).collect();
    let alias = tokens.pop()?;
    if !matches!(alias.kind, TokenKind::Word | TokenKind::Quoted) {
        return None;
    }
    if tokens.last().is_some_and(|token| text[token.start..token.end].eq_ignore_ascii_case("as")) {
        tokens.pop();
    }
    range(&tokens)
}

/// The parts of a function call with one FILTER at most.
#[derive(Debug)]
pub(crate) struct CallSpans {
    pub whole: Range<usize>,
    /// From the opening bracket on.
    pub tail: Range<usize>,
    /// What stands between the brackets, without DISTINCT or ALL.
    pub value: Range<usize>,
    /// From behind the closing bracket on.
    pub filter: Range<usize>,
}

/// The call whose name begins at byte `at`.
pub(crate) fn call(text: &str, end: usize, at: usize) -> Option<CallSpans> {
    let tokens: Vec<Token> = Lexer::starting_at(&text[..end], at).take(4096).collect();
    let word = |index: usize| tokens.get(index).map_or("", |token| &text[token.start..token.end]);
    let open = (0..tokens.len()).find(|index| word(*index) == "(")?;
    let close = closing(&word, open, tokens.len())?;
    let mut last = close;
    if word(close + 1).eq_ignore_ascii_case("filter") {
        last = closing(&word, close + 2, tokens.len())?;
    }
    let end = tokens[last].end;
    let kind = word(open + 1);
    let first = open + 1 + usize::from(kind.eq_ignore_ascii_case("distinct") || kind.eq_ignore_ascii_case("all"));
    let value = range(&tokens[first..close.max(first)]).unwrap_or(tokens[open].end..tokens[open].end);
    Some(CallSpans { whole: at..end, tail: tokens[open].start..end, value, filter: tokens[close].end..end })
}

pub(super) fn closing<'t>(word: &impl Fn(usize) -> &'t str, open: usize, count: usize) -> Option<usize> {
    let mut depth = 0;
    for index in open..count {
        match word(index) {
            "(" | "[" => depth += 1,
            ")" | "]" => {
                depth -= 1;
                if depth == 0 {
                    return Some(index);
                }
            }
            _ => {}
        }
    }
    None
}
