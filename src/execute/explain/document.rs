//! The router's steps and the servers' plans as JSON, YAML and XML, shaped as PostgreSQL shapes them.

use std::str::FromStr;
use std::time::Duration;

use pgsluice_sharding::sql::ExplainFormat;
use serde_json::{Map, Number, Value};

use super::report::{Actual, Report, ServerPlan, ServerReport, Summary, milliseconds};

/// The one object in a server's document of FORMAT JSON; none if it is not what PostgreSQL writes.
pub(super) fn read(text: &str) -> Option<Map<String, Value>> {
    let Ok(Value::Array(mut documents)) = serde_json::from_str(text) else { return None };
    match (documents.pop(), documents.is_empty()) {
        (Some(Value::Object(document)), true) => Some(document),
        // "Utility Statement": it has no plan.
        (Some(Value::String(what)), true) => {
            let mut document = Map::new();
            put(&mut document, "Plan", Value::Object(heading(&what, None)));
            Some(document)
        }
        _ => None,
    }
}

/// The whole document in one of the formats that are not text.
pub(super) fn show(format: ExplainFormat, report: &Report, summary: Option<Summary>) -> String {
    let mut query = Map::new();
    put(&mut query, "Plan", Value::Object(node(report, None)));
    if summary.is_some_and(|summary| summary.once) {
        put(&mut query, "Shards Planned Only", Value::Bool(true));
    }
    if let Some(took) = summary.and_then(|summary| summary.took) {
        put(&mut query, "Execution Time", time(took));
    }
    match format {
        ExplainFormat::Yaml => yaml(&query),
        ExplainFormat::Xml => xml(&query),
        // Strings as keys and plain values are always written.
        ExplainFormat::Json | ExplainFormat::Text => {
            serde_json::to_string_pretty(&[query]).unwrap_or_else(|error| format!("\"{error}\""))
        }
    }
}

/// What is estimated of a node, in PostgreSQL's units; absent where servers do not tell (COSTS off).
#[derive(Clone, Copy, Default)]
struct Estimate {
    startup_cost: f64,
    total_cost: f64,
    rows: f64,
    width: f64,
}

impl Estimate {
    fn of_plan(plan: &Value) -> Option<Self> {
        let number = |key: &str| plan.get(key).and_then(Value::as_f64);
        Some(Self {
            startup_cost: number("Startup Cost")?,
            total_cost: number("Total Cost")?,
            rows: number("Plan Rows")?,
            width: number("Plan Width")?,
        })
    }

    /// Of all together: the work adds up, the first row comes from whoever is first.
    fn of_all(all: impl Iterator<Item = Option<Self>>) -> Option<Self> {
        all.reduce(|a, b| {
            let (a, b) = (a?, b?);
            Some(Self {
                startup_cost: a.startup_cost.min(b.startup_cost),
                total_cost: a.total_cost + b.total_cost,
                rows: a.rows + b.rows,
                width: a.width.max(b.width),
            })
        })
        .flatten()
    }

    fn of_server(server: &ServerReport) -> Option<Self> {
        match &server.plan {
            ServerPlan::Document(document) => document.get("Plan").and_then(Self::of_plan),
            ServerPlan::Lines(_) => None,
        }
    }

    /// A step gives at most what comes to it. What a final query gives its own server knows.
    fn of_report(report: &Report) -> Option<Self> {
        let below = Self::of_all(report.inputs.iter().map(Self::of_report));
        let here = Self::of_all(report.servers.iter().map(Self::of_server));
        let mut estimate = match (report.step.name, below, here) {
            ("Final", Some(below), Some(here)) => {
                Self { total_cost: here.total_cost + below.total_cost, startup_cost: below.total_cost, ..here }
            }
            ("Final", _, here) => here?,
            (_, below, here) => here.or(below)?,
        };
        if let Some(rows_max) = report.step.rows_max {
            estimate.rows = estimate.rows.min(rows_max as f64);
        }
        Some(estimate)
    }

    fn put(&self, node: &mut Map<String, Value>) {
        put(node, "Startup Cost", number(&format!("{:.2}", self.startup_cost)));
        put(node, "Total Cost", number(&format!("{:.2}", self.total_cost)));
        put(node, "Plan Rows", number(&format!("{:.0}", self.rows)));
        put(node, "Plan Width", number(&format!("{:.0}", self.width)));
    }
}

/// A step as a node of PostgreSQL's; `relation` says what it is to the node above.
fn node(report: &Report, relation: Option<&str>) -> Map<String, Value> {
    let mut node = heading(&format!("Sluice {}", in_words(report.step.name)), relation);
    if !report.step.detail.is_empty() {
        put(&mut node, "Detail", Value::String(report.step.detail.clone()));
    }
    if !report.step.lines.is_empty() {
        put(&mut node, "Query", Value::String(report.step.lines.join("\n")));
    }
    if let Some(estimate) = Estimate::of_report(report) {
        estimate.put(&mut node);
    }
    if let Some(actual) = &report.actual {
        put_actual(&mut node, actual);
    }
    let relation = if report.inputs.len() + report.servers.len() > 1 { "Member" } else { "Outer" };
    let servers = report.servers.iter().map(|server| Value::Object(server_node(server, relation)));
    let inputs = report.inputs.iter().map(|input| Value::Object(self::node(input, Some(relation))));
    let plans: Vec<Value> = servers.chain(inputs).collect();
    if !plans.is_empty() {
        put(&mut node, "Plans", Value::Array(plans));
    }
    node
}

fn server_node(server: &ServerReport, relation: &str) -> Map<String, Value> {
    let mut node = heading("Sluice Shard", Some(relation));
    put(&mut node, "Shard", Value::String(server.shard.clone()));
    put(&mut node, "Role", Value::String(server.role.to_owned()));
    if let Some(estimate) = Estimate::of_server(server) {
        estimate.put(&mut node);
    }
    if let Some(actual) = &server.actual {
        put_actual(&mut node, actual);
    }
    if let ServerPlan::Document(document) = &server.plan {
        // Planning Time and the like are the server's.
        for (key, value) in document.iter().filter(|(key, _)| *key != "Plan") {
            put(&mut node, key, value.clone());
        }
        if let Some(plan) = document.get("Plan") {
            put(&mut node, "Plans", Value::Array(vec![plan.clone()]));
        }
    }
    node
}

/// What every node of PostgreSQL's has.
fn heading(node_type: &str, relation: Option<&str>) -> Map<String, Value> {
    let mut node = Map::new();
    put(&mut node, "Node Type", Value::String(node_type.to_owned()));
    if let Some(relation) = relation {
        put(&mut node, "Parent Relationship", Value::String(relation.to_owned()));
    }
    put(&mut node, "Parallel Aware", Value::Bool(false));
    put(&mut node, "Async Capable", Value::Bool(false));
    node
}

fn put_actual(node: &mut Map<String, Value>, actual: &Actual) {
    if let Some((first, last)) = actual.time {
        if let Some(first) = first {
            put(node, "Actual Startup Time", time(first));
        }
        put(node, "Actual Total Time", time(last));
    }
    put(node, "Actual Rows", Value::Number(actual.rows.into()));
    put(node, "Actual Loops", Value::Number(1.into()));
    if let Some(bytes) = actual.bytes {
        put(node, "Actual Bytes", Value::Number(bytes.into()));
    }
}

fn put(node: &mut Map<String, Value>, key: &str, value: Value) {
    node.insert(key.to_owned(), value);
}

fn time(time: Duration) -> Value {
    number(&format!("{:.3}", milliseconds(time)))
}

/// A number as it is written.
fn number(text: &str) -> Value {
    Number::from_str(text).map_or(Value::Null, Value::Number)
}

/// `MergeSort` -> `Merge Sort`.
fn in_words(name: &str) -> String {
    let mut words = String::with_capacity(name.len() + 1);
    for (position, char) in name.char_indices() {
        if position > 0 && char.is_ascii_uppercase() {
            words.push(' ');
        }
        words.push(char);
    }
    words
}

fn yaml(query: &Map<String, Value>) -> String {
    let mut out = String::from("- ");
    yaml_object(&mut out, query, 1);
    out
}

/// The first key stands where the text is, the others on lines of their own.
fn yaml_object(out: &mut String, object: &Map<String, Value>, depth: usize) {
    for (position, (key, value)) in object.iter().enumerate() {
        if position > 0 {
            yaml_line(out, depth);
        }
        out.push_str(key);
        out.push_str(": ");
        yaml_value(out, value, depth);
    }
}

fn yaml_value(out: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Array(items) if items.is_empty() => out.push_str("[]"),
        Value::Array(items) => {
            for item in items {
                yaml_line(out, depth + 1);
                out.push_str("- ");
                yaml_value_in_list(out, item, depth + 2);
            }
        }
        Value::Object(object) if object.is_empty() => out.push_str("{}"),
        Value::Object(object) => {
            yaml_line(out, depth + 1);
            yaml_object(out, object, depth + 1);
        }
        // Strings are quoted as in JSON, which YAML reads the same.
        scalar => out.push_str(&scalar.to_string()),
    }
}

fn yaml_value_in_list(out: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Object(object) if !object.is_empty() => yaml_object(out, object, depth),
        other => yaml_value(out, other, depth),
    }
}

fn yaml_line(out: &mut String, depth: usize) {
    out.push('\n');
    out.push_str(&"  ".repeat(depth));
}

fn xml(query: &Map<String, Value>) -> String {
    let mut out = String::from("<explain xmlns=\"http://www.postgresql.org/2009/explain\">\n  <Query>\n");
    xml_members(&mut out, query, 2);
    out.push_str("  </Query>\n</explain>");
    out
}

fn xml_members(out: &mut String, object: &Map<String, Value>, depth: usize) {
    for (key, value) in object {
        xml_element(out, &xml_name(key), value, depth);
    }
}

fn xml_element(out: &mut String, name: &str, value: &Value, depth: usize) {
    let margin = "  ".repeat(depth);
    match value {
        Value::Array(items) => {
            out.push_str(&format!("{margin}<{name}>\n"));
            let item_name = match name {
                "Plans" | "Triggers" | "Workers" => &name[..name.len() - 1],
                _ => "Item",
            };
            items.iter().for_each(|item| xml_element(out, item_name, item, depth + 1));
            out.push_str(&format!("{margin}</{name}>\n"));
        }
        Value::Object(object) => {
            out.push_str(&format!("{margin}<{name}>\n"));
            xml_members(out, object, depth + 1);
            out.push_str(&format!("{margin}</{name}>\n"));
        }
        Value::String(text) => out.push_str(&format!("{margin}<{name}>{}</{name}>\n", xml_text(text))),
        scalar => out.push_str(&format!("{margin}<{name}>{scalar}</{name}>\n")),
    }
}

/// A key as the name of an element, as PostgreSQL makes it.
fn xml_name(key: &str) -> String {
    let allowed = |char: char| char.is_ascii_alphanumeric() || matches!(char, '-' | '_' | '.');
    key.chars().map(|char| if allowed(char) { char } else { '-' }).collect()
}

fn xml_text(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('\r', "&#x0d;")
}

#[cfg(test)]
mod tests {
    use pgsluice_sharding::plan::Step;
    use pgsluice_sharding::sql::ExplainFormat;

    use super::{Report, ServerPlan, ServerReport, read, show};

    const PLAN: &str = r#"[{"Plan": {"Node Type": "Seq Scan", "Total Cost": 35.50, "Filter": "(a < '\"&'::text)",
        "Sort Key": ["a", "b"], "I/O Read Time": 0.100}, "Planning Time": 1.20, "Triggers": []}]"#;

    fn report() -> Report {
        let step =
            Step { name: "Route", detail: "all shards".into(), lines: vec!["SELECT 1".into()], ..Step::default() };
        let merge = Step { name: "MergeSort", inputs: vec![step], ..Step::default() };
        let mut report = Report::of(merge);
        let plan = ServerPlan::Document(read(PLAN).unwrap_or_default());
        report.leaf().servers.push(ServerReport { shard: "a".into(), role: "primary", actual: None, plan });
        report
    }

    #[test]
    fn a_plan_keeps_its_order_and_its_numbers() {
        let json = show(ExplainFormat::Json, &report(), None);
        assert!(json.starts_with("[\n  {\n    \"Plan\": {\n      \"Node Type\": \"Sluice Merge Sort\",\n"), "{json}");
        let end =
            json.split_once("\"Node Type\": \"Seq Scan\",").map(|(_, end)| end.split_whitespace().collect::<String>());
        let expected =
            r#""TotalCost":35.50,"Filter":"(a<'\"&'::text)","SortKey":["a","b"],"I/OReadTime":0.100}]}]}]}}]"#;
        assert_eq!(end.as_deref(), Some(expected));
    }

    #[test]
    fn yaml_is_indented_and_quoted() {
        let yaml = show(ExplainFormat::Yaml, &report(), None);
        let lines: Vec<&str> =
            yaml.lines().filter(|line| !line.contains(" Aware") && !line.contains("Capable")).collect();
        let expected = [
            "- Plan: ",
            "    Node Type: \"Sluice Merge Sort\"",
            "    Plans: ",
            "      - Node Type: \"Sluice Route\"",
            "        Parent Relationship: \"Outer\"",
            "        Detail: \"all shards\"",
            "        Query: \"SELECT 1\"",
            "        Plans: ",
            "          - Node Type: \"Sluice Shard\"",
            "            Parent Relationship: \"Outer\"",
            "            Shard: \"a\"",
            "            Role: \"primary\"",
            "            Planning Time: 1.20",
            "            Triggers: []",
            "            Plans: ",
            "              - Node Type: \"Seq Scan\"",
            "                Total Cost: 35.50",
            "                Filter: \"(a < '\\\"&'::text)\"",
            "                Sort Key: ",
            "                  - \"a\"",
            "                  - \"b\"",
            "                I/O Read Time: 0.100",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn xml_is_nested_and_escaped() {
        let xml = show(ExplainFormat::Xml, &report(), None);
        let start = "<explain xmlns=\"http://www.postgresql.org/2009/explain\">\n  <Query>\n    <Plan>\n      \
                     <Node-Type>Sluice Merge Sort</Node-Type>\n";
        assert!(xml.starts_with(start), "{xml}");
        let plan: String =
            xml.split_once("Seq Scan</Node-Type>").map_or("", |(_, plan)| plan).split_whitespace().collect();
        let expected = "<Total-Cost>35.50</Total-Cost><Filter>(a&lt;'\"&amp;'::text)</Filter><Sort-Key><Item>a</Item>\
                        <Item>b</Item></Sort-Key><I-O-Read-Time>0.100</I-O-Read-Time></Plan></Plans></Plan></Plans>\
                        </Plan></Plans></Plan></Query></explain>";
        assert_eq!(plan, expected);
    }

    #[test]
    fn what_is_no_plan_is_not_read() {
        for text in ["", "[]", "{}", "[{}, {}]", "[1]", "[{\"Plan\": ", "null"] {
            assert!(read(text).is_none(), "{text}");
        }
    }
}
