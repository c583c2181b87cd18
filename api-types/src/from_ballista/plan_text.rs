//! Reads operators and metrics back from the plan text that Ballista prints.

use std::collections::BTreeMap;

use crate::{OperatorMetrics, PlanNode};

/// Deepest plan that is turned into a tree; deeper text is cut, so that neither building nor dropping it can exhaust the stack.
const DEPTH_MAX: usize = 200;
/// Most operators of one stage.
const NODES_MAX: usize = 5_000;
/// Operators that report no metrics. Ballista's printer hands metrics out in pre-order as if every operator had some, so below one of these
/// each line shows the metrics of the line after it.
const WITHOUT_METRICS: &[&str] = &["CooperativeExec", "EmptyExec", "PlaceholderRowExec", "OutputRequirementExec", "UnresolvedShuffleExec"];

/// What a stage's part of the printed execution graph tells.
#[derive(Debug, Clone, Default)]
pub(super) struct RenderedStage {
    pub attempt: u32,
    pub partitions: Option<u32>,
    pub error: Option<String>,
    pub plan: Option<PlanNode>,
}

/// Splits the `Debug` text of an execution graph (static or adaptive) into its stages. Each begins with
/// `=========SuccessfulStage[stage_id=1.0, partitions=4]=========`, where `1.0` is stage and attempt.
pub(super) fn stages_of_graph(graph: &str) -> BTreeMap<u32, RenderedStage> {
    const MARK: &str = "=========";
    let mut stages = BTreeMap::new();
    let mut rest = graph;
    while let Some(start) = rest.find("Stage[stage_id=") {
        let header_and_more = &rest[start + "Stage[".len()..];
        let Some(header_end) = header_and_more.find(&format!("]{MARK}")) else { break };
        let header = &header_and_more[..header_end];
        let body_and_more = &header_and_more[header_end + 1 + MARK.len()..];
        let body_end = body_and_more.find(MARK).unwrap_or(body_and_more.len());
        rest = body_and_more;
        let Some((stage_id, attempt)) = stage_and_attempt(header) else { continue };
        stages.insert(
            stage_id,
            RenderedStage {
                attempt,
                partitions: field(header, "partitions=").and_then(|value| value.parse().ok()),
                error: header.split_once("error_message=").map(|(_, message)| message.to_owned()),
                plan: parse_plan(stage_id, &body_and_more[..body_end]),
            },
        );
    }
    stages
}

fn stage_and_attempt(header: &str) -> Option<(u32, u32)> {
    let (stage, attempt) = field(header, "stage_id=")?.split_once('.')?;
    Some((stage.parse().ok()?, attempt.parse().ok()?))
}

fn field<'a>(header: &'a str, name: &str) -> Option<&'a str> {
    let (_, value) = header.split_once(name)?;
    value.split([',', ']']).next()
}

struct Line {
    depth: usize,
    name: String,
    detail: String,
    metrics: OperatorMetrics,
}

/// An indented plan (`ShuffleWriterExec: ...\n  FilterExec: ...`, two blanks a level) as a tree. A line that is no operator (a line break within
/// an expression) belongs to the operator before it; the plan ends where a second root would begin.
pub(super) fn parse_plan(stage_id: u32, plan: &str) -> Option<PlanNode> {
    let mut lines: Vec<Line> = Vec::new();
    for raw in plan.lines() {
        if raw.trim().is_empty() || (lines.is_empty() && raw.starts_with("Inputs{")) {
            continue;
        }
        let depth = raw.bytes().take_while(|&byte| byte == b' ').count() / 2;
        let trimmed = raw.trim_start();
        if is_operator(trimmed) && (depth > 0 || lines.is_empty()) {
            if lines.len() >= NODES_MAX {
                break;
            }
            let (text, metrics) = split_metrics(trimmed);
            let (name, detail) = match text.split_once(": ") {
                Some((name, detail)) => (name, detail),
                None => text.split_once(' ').unwrap_or((text.trim_end_matches(':'), "")),
            };
            lines.push(Line { depth, name: name.trim_end_matches([',', ':']).to_owned(), detail: detail.to_owned(), metrics });
        } else if depth == 0 && !lines.is_empty() && (is_operator(trimmed) || trimmed.starts_with(", ") || trimmed.starts_with('}')) {
            break;
        } else if let Some(last) = lines.last_mut() {
            let (text, metrics) = split_metrics(trimmed);
            last.detail.push('\n');
            last.detail.push_str(text);
            if metrics != OperatorMetrics::default() {
                last.metrics = metrics;
            }
        }
    }
    realign_metrics(&mut lines);
    let mut next = 0;
    build(stage_id, &lines, &mut next, 0)
}

/// Operators are named in upper camel case and end in `Exec`, or are followed by a colon.
fn is_operator(line: &str) -> bool {
    let end = line.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(line.len());
    let (name, rest) = line.split_at(end);
    name.starts_with(|c: char| c.is_ascii_uppercase())
        && (rest.is_empty() || rest.starts_with(": ") || rest == ":" || rest.starts_with(", metrics=[") || name.ends_with("Exec"))
}

/// Shifts metrics back to the operators that reported them, when the text shows that they are shifted.
fn realign_metrics(lines: &mut [Line]) {
    let silent = lines.iter().filter(|line| WITHOUT_METRICS.contains(&line.name.as_str())).count();
    let trailing = lines.iter().rev().take_while(|line| line.metrics == OperatorMetrics::default()).count();
    let shifted = lines.iter().any(|line| WITHOUT_METRICS.contains(&line.name.as_str()) && line.metrics != OperatorMetrics::default());
    if silent == 0 || !shifted || trailing < silent {
        return;
    }
    let mut reported: std::collections::VecDeque<OperatorMetrics> = lines.iter_mut().map(|line| std::mem::take(&mut line.metrics)).collect();
    for line in lines.iter_mut().filter(|line| !WITHOUT_METRICS.contains(&line.name.as_str())) {
        line.metrics = reported.pop_front().unwrap_or_default();
    }
}

fn build(stage_id: u32, lines: &[Line], next: &mut usize, level: usize) -> Option<PlanNode> {
    let line = lines.get(*next)?;
    let mut node = PlanNode {
        id: format!("{stage_id}.{next}"),
        name: line.name.clone(),
        detail: line.detail.clone(),
        metrics: line.metrics.clone(),
        reads_stage: reads_stage(&line.name, &line.detail),
        children: Vec::new(),
    };
    let depth = line.depth;
    *next += 1;
    while lines.get(*next).is_some_and(|child| child.depth > depth) {
        if level + 1 >= DEPTH_MAX {
            *next += 1;
            continue;
        }
        node.children.extend(build(stage_id, lines, next, level + 1));
    }
    Some(node)
}

/// `ShuffleReaderExec: upstream_stage: 3, ...` or `UnresolvedShuffleExec: stage=3, ...` -> 3
fn reads_stage(name: &str, detail: &str) -> Option<u32> {
    if !name.contains("Shuffle") || name.contains("Writer") {
        return None;
    }
    let (_, value) = ["upstream_stage: ", "upstream_stage=", "stage_id=", "stage="].iter().find_map(|mark| detail.split_once(mark))?;
    let digits = value.find(|c: char| !c.is_ascii_digit()).unwrap_or(value.len());
    value[..digits].parse().ok()
}

/// Cuts `, metrics=[...]` off the end of an operator's line.
fn split_metrics(line: &str) -> (&str, OperatorMetrics) {
    match line.rfind(", metrics=[") {
        Some(at) => {
            let metrics = &line[at + ", metrics=[".len()..];
            (&line[..at], parse_metrics(metrics.strip_suffix(']').unwrap_or(metrics)))
        }
        None => (line, OperatorMetrics::default()),
    }
}

fn parse_metrics(text: &str) -> OperatorMetrics {
    let mut metrics = OperatorMetrics::default();
    for item in text.split(", ") {
        let Some((name, value)) = item.split_once('=') else { continue };
        if value.is_empty() || value == "NOT RECORDED" {
            continue;
        }
        let before = metrics.approximate;
        let mut count = |into: &mut Option<u64>, unit: Unit| match parse_scaled(value, unit) {
            Some((number, rounded)) => {
                *into = Some(number);
                metrics.approximate = before || rounded;
                true
            }
            None => false,
        };
        let taken = match name {
            "output_rows" => count(&mut metrics.output_rows, Unit::Rows),
            "elapsed_compute" => {
                metrics.elapsed_ns = parse_duration_ns(value);
                metrics.elapsed_ns.is_some()
            }
            "output_bytes" => count(&mut metrics.output_bytes, Unit::Bytes),
            "spilled_bytes" => count(&mut metrics.spilled_bytes, Unit::Bytes),
            "spilled_rows" => count(&mut metrics.spilled_rows, Unit::Rows),
            _ => false,
        };
        if !taken {
            metrics.other.insert(name.to_owned(), value.to_owned());
        }
    }
    metrics
}

#[derive(Clone, Copy, PartialEq)]
enum Unit {
    Rows,
    Bytes,
}

/// `1.53 K`, `12`, `4.0 MB` -> the number, and whether it was rounded. Counts go by 1000 (`B` is a billion), bytes by 1024 (`B` is a byte).
fn parse_scaled(text: &str, unit: Unit) -> Option<(u64, bool)> {
    let (number, suffix) = text.split_once(' ').unwrap_or((text, ""));
    let scale = match (unit, suffix) {
        (_, "") => return number.parse().ok().map(|exact| (exact, false)),
        (Unit::Bytes, "B") => 1.0,
        (Unit::Rows, "K") => 1e3,
        (Unit::Rows, "M") => 1e6,
        (Unit::Rows, "B") => 1e9,
        (Unit::Rows, "T") => 1e12,
        (Unit::Bytes, "KB") => 1024.0,
        (Unit::Bytes, "MB") => 1024.0 * 1024.0,
        (Unit::Bytes, "GB") => 1024.0 * 1024.0 * 1024.0,
        (Unit::Bytes, "TB") => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        _ => return None,
    };
    let value: f64 = number.parse().ok()?;
    Some(((value * scale).round() as u64, scale > 1.0))
}

/// `12.30ms`, `1.20s`, `300.00µs`, `15ns`
fn parse_duration_ns(text: &str) -> Option<u64> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(split);
    let scale = match unit {
        "ns" => 1.0,
        "µs" | "us" => 1e3,
        "ms" => 1e6,
        "s" => 1e9,
        _ => return None,
    };
    Some((number.parse::<f64>().ok()? * scale).round() as u64)
}

/// Ballista counts the rows of a stage exactly: those that its root wrote and those that its leaves read. Puts them where the text was rounded.
pub(super) fn sharpen(root: &mut PlanNode, input_rows: u64, output_rows: u64) {
    if output_rows > 0 && root.metrics.output_rows.is_some_and(|shown| close(shown, output_rows)) {
        root.metrics.output_rows = Some(output_rows);
    }
    let mut leaf = root;
    while leaf.children.len() == 1 {
        leaf = &mut leaf.children[0];
    }
    if leaf.children.is_empty() && leaf.metrics.output_rows.is_some_and(|shown| close(shown, input_rows)) {
        leaf.metrics.output_rows = Some(input_rows);
    }
}

fn close(shown: u64, exact: u64) -> bool {
    shown.abs_diff(exact) <= exact / 100
}
