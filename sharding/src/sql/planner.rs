//! Plans, remembered: by the exact text, and by its shape where the plan does not depend on values.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::Access;
use super::shape::{self, Literal, Shape};
use super::{Command, Effects, Limits, PlannerStats, Script, SetValue, SharedScript, Statement, parse};
use crate::catalog::Catalog;
use crate::plan::{self, Context, FinalQuery, Phase, Plan};
use crate::refusal::Refusal;

/// Plans statements and remembers what it planned. One per worker and database: nothing in it is
/// shared, and its plans are good for the catalogs of one database only.
#[derive(Debug)]
pub struct Planner {
    limits: Limits,
    literals: Vec<Literal>,
    cache: Cache,
    stats: PlannerStats,
}

impl Planner {
    pub fn new(limits: Limits) -> Self {
        let cache = Cache::new(limits.cache_bytes_max);
        Self { limits, literals: Vec::new(), cache, stats: PlannerStats::default() }
    }

    /// The plan of a request's text under `catalog`, from the cache where possible. The literals
    /// that the plan's slots speak of are in [`Planner::literals`] until the next call.
    ///
    /// `search_path` is the session's, as the text of the setting; `None` when it has set none.
    ///
    /// # Errors
    /// PostgreSQL's syntax error `42601` with its position, or a bound that was passed.
    /// A statement that may not run over several shards is no error: its plan is `Plan::Refused`.
    pub fn plan(&mut self, catalog: &Catalog, search_path: Option<&str>, text: &str) -> Result<SharedScript, Refusal> {
        let seed = seed(catalog, search_path);
        let by_text = xxh3_64_with_seed(text.as_bytes(), seed);
        if let Some(found) = self.cache.text(by_text, text) {
            self.literals.clear();
            self.literals.extend_from_slice(&found.literals);
            self.stats.text_hits += 1;
            return Ok(Arc::clone(&found.script));
        }
        let shape = shape::scan(text, &mut self.literals);
        let by_shape = shape ^ seed;
        if let Some(script) = self.cache.shape(by_shape) {
            self.stats.shape_hits += 1;
            return Ok(script);
        }
        self.stats.misses += 1;
        let (script, any_values) = self.analyse(catalog, search_path, text)?;
        let script = Arc::new(script);
        let bytes = script_bytes(&script);
        if any_values && !self.literals.is_empty() {
            self.cache.insert_shape(by_shape, Arc::clone(&script), bytes);
        } else {
            let literals = self.literals.as_slice().into();
            self.cache.insert_text(by_text, text, literals, Arc::clone(&script), bytes);
        }
        Ok(script)
    }

    fn analyse(&self, catalog: &Catalog, search_path: Option<&str>, text: &str) -> Result<(Script, bool), Refusal> {
        let context = Context { catalog, search_path, text, phases: &Phase::ALL };
        analyse(context, &self.literals, &self.limits)
    }

    /// The literals of the text planned last.
    pub fn literals(&self) -> &[Literal] {
        &self.literals
    }

    pub fn stats(&self) -> PlannerStats {
        PlannerStats { entries: self.cache.entries(), bytes: self.cache.bytes(), ..self.stats }
    }
}

/// The plan of every statement of a text, and whether it holds for all texts of the same shape.
pub(crate) fn analyse(context: Context<'_>, literals: &[Literal], limits: &Limits) -> Result<(Script, bool), Refusal> {
    let parsed = parse::parse(context.text, literals, limits).map_err(|refusal| *refusal)?;
    let mut any_values = parsed.len() == 1;
    let mut statements = Vec::with_capacity(parsed.len().max(1));
    // A SET of the search path holds for the statements behind it.
    let mut search_path = context.search_path.map(str::to_owned);
    for parsed in &parsed {
        let context = Context { search_path: search_path.as_deref(), ..context };
        let planned = plan::plan_statement(context, parsed);
        any_values &= planned.any_values;
        match &planned.statement.command {
            Command::Set { name, value: SetValue::Text(path), .. } if name == "search_path" => {
                search_path = Some(path.clone());
            }
            Command::Reset(name) if name == "search_path" => search_path = None,
            _ => {}
        }
        statements.push(planned.statement);
    }
    if statements.is_empty() {
        statements.push(nothing(context.text.len()));
    }
    Ok((Script { statements, shape: Shape::of(context.text) }, any_values))
}

/// White space and comments.
fn nothing(length: usize) -> Statement {
    Statement {
        span: 0..length,
        command: Command::Empty,
        access: Access::Read,
        effects: Effects::default(),
        params: 0,
        plan: Plan::Session,
        execute: None,
        current_of: None,
    }
}

/// What a plan depends on besides its text.
fn seed(catalog: &Catalog, search_path: Option<&str>) -> u64 {
    let path = search_path.map_or(0, |path| xxh3_64(path.as_bytes()) | 1);
    let version = catalog.version.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    path.rotate_left(17) ^ version ^ u64::from(catalog.shards).rotate_left(48)
}

/// An estimate of the memory that a script holds.
fn script_bytes(script: &Script) -> usize {
    let statement = |statement: &Statement| {
        let plan = match &statement.plan {
            Plan::Gather(gather) => {
                512 + 2 * gather.sql.len() + gather.or_else.as_ref().map_or(0, |last| bytes_of(last))
            }
            Plan::Final(query) => bytes_of(query),
            Plan::Write(write) => match &**write {
                plan::Write::Each(each) => bytes_of(&each.query),
                plan::Write::Rows(insert) => 128 + keys_bytes(&insert.keys),
                plan::Write::Selected(insert) => 2048 + 8 * insert.text.len(),
                plan::Write::Staged(staged) => 4096 + 2048 * staged.stages.len() + 8 * staged.hindrances.len(),
                plan::Write::Moved(moved) => {
                    bytes_of(&moved.query) + 4096 + 8 * (moved.find.len() + moved.update.len())
                }
            },
            Plan::Route { shards, .. } => 128 + keys_bytes(shards),
            _ => 128,
        };
        size_of::<Statement>() + plan
    };
    size_of::<Script>() + script.shape.text.len() + script.statements.iter().map(statement).sum::<usize>()
}

fn keys_bytes(shards: &plan::Shards) -> usize {
    if let plan::Shards::Keys { keys, .. } = shards { 32 * keys.len() } else { 0 }
}

/// Two generations: what was used since the last turn stays, the rest goes when the young one has
/// taken half of the room. A hit only sets a mark.
#[derive(Debug)]
struct Cache {
    young: Generation,
    old: Generation,
    generation_bytes_max: usize,
}

#[derive(Debug, Default)]
struct Generation {
    texts: HashMap<u64, TextEntry, BuildHasherDefault<Hashed>>,
    shapes: HashMap<u64, ShapeEntry, BuildHasherDefault<Hashed>>,
    bytes: usize,
}

#[derive(Debug)]
struct TextEntry {
    text: Box<str>,
    literals: Box<[Literal]>,
    script: SharedScript,
    bytes: usize,
    used: bool,
}

#[derive(Debug)]
struct ShapeEntry {
    script: SharedScript,
    bytes: usize,
    used: bool,
}

impl Cache {
    fn new(bytes_max: usize) -> Self {
        Self { young: Generation::default(), old: Generation::default(), generation_bytes_max: bytes_max / 2 }
    }

    fn text(&mut self, hash: u64, text: &str) -> Option<&TextEntry> {
        let Self { young, old, .. } = self;
        let entry = young.texts.get_mut(&hash).or_else(|| old.texts.get_mut(&hash))?;
        // Two texts with one hash must never share a plan.
        if *entry.text != *text {
            return None;
        }
        entry.used = true;
        Some(entry)
    }

    fn shape(&mut self, hash: u64) -> Option<SharedScript> {
        let Self { young, old, .. } = self;
        let entry = young.shapes.get_mut(&hash).or_else(|| old.shapes.get_mut(&hash))?;
        entry.used = true;
        Some(Arc::clone(&entry.script))
    }

    fn insert_text(&mut self, hash: u64, text: &str, literals: Box<[Literal]>, script: SharedScript, bytes: usize) {
        let bytes = bytes + size_of::<TextEntry>() + 16 + text.len() + size_of_val(&*literals);
        if self.make_room(bytes) {
            let entry = TextEntry { text: text.into(), literals, script, bytes, used: false };
            let replaced = self.young.texts.insert(hash, entry).map_or(0, |replaced| replaced.bytes);
            self.young.bytes = self.young.bytes + bytes - replaced;
        }
    }

    fn insert_shape(&mut self, hash: u64, script: SharedScript, bytes: usize) {
        let bytes = bytes + size_of::<ShapeEntry>() + 16;
        if self.make_room(bytes) {
            let entry = ShapeEntry { script, bytes, used: false };
            let replaced = self.young.shapes.insert(hash, entry).map_or(0, |replaced| replaced.bytes);
            self.young.bytes = self.young.bytes + bytes - replaced;
        }
    }

    /// Whether an entry of this size may be kept; the old generation goes if it must.
    fn make_room(&mut self, bytes: usize) -> bool {
        if bytes > self.generation_bytes_max / 4 {
            return false;
        }
        if self.young.bytes + bytes > self.generation_bytes_max {
            self.turn();
        }
        true
    }

    fn turn(&mut self) {
        let mut old = std::mem::take(&mut self.young);
        let last = std::mem::take(&mut self.old);
        let room = self.generation_bytes_max - self.generation_bytes_max / 4;
        for (hash, mut entry) in last.texts {
            if entry.used && self.young.bytes + entry.bytes <= room / 2 {
                entry.used = false;
                self.young.bytes += entry.bytes;
                self.young.texts.insert(hash, entry);
            }
        }
        for (hash, mut entry) in last.shapes {
            if entry.used && self.young.bytes + entry.bytes <= room {
                entry.used = false;
                self.young.bytes += entry.bytes;
                self.young.shapes.insert(hash, entry);
            }
        }
        std::mem::swap(&mut self.old, &mut old);
    }

    fn entries(&self) -> usize {
        let count = |generation: &Generation| generation.texts.len() + generation.shapes.len();
        count(&self.young) + count(&self.old)
    }

    fn bytes(&self) -> usize {
        self.young.bytes + self.old.bytes
    }
}

/// The keys are hashes already.
#[derive(Debug, Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64(bytes);
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

fn bytes_of(query: &FinalQuery) -> usize {
    let inputs = query.inputs.iter().map(|input| 512 + 2 * input.gather.sql.len());
    256 + 2 * query.sql.len() + inputs.sum::<usize>()
}
