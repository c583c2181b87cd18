//! A table as plain rows: what every operation makes of them, without files.

use std::collections::BTreeMap;

/// A column, whatever its name and place are now.
pub type ColumnId = u32;

/// Every row has it, no two rows share it, and no statement changes it.
pub const KEY: ColumnId = 0;
pub const PART: ColumnId = 1;
pub const NUMBER: ColumnId = 2;
pub const TEXT: ColumnId = 3;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Int(i64),
    Text(String),
}

/// Columns without a value are NULL.
pub type Row = BTreeMap<ColumnId, Value>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Int,
    Bigint,
    Text,
}

#[derive(Debug, Clone)]
pub struct Column {
    pub id: ColumnId,
    pub name: String,
    pub kind: Kind,
}

/// What a snapshot holds, with the columns of its time.
#[derive(Debug, Clone)]
pub struct Version {
    pub rows: Vec<Row>,
    pub columns: Vec<Column>,
}

#[derive(Debug, Clone)]
pub struct Model {
    pub columns: Vec<Column>,
    pub rows: Vec<Row>,
    pub branches: BTreeMap<String, Vec<Row>>,
    /// Snapshots that can be read.
    pub snapshots: BTreeMap<i64, Version>,
    pub format_version: u8,
    next_column: ColumnId,
    next_key: i64,
}

/// A condition, as SQL and as a function; `None` is SQL's unknown.
#[derive(Debug, Clone)]
pub enum Condition {
    All,
    KeyIn(Vec<i64>),
    KeyBelow(i64),
    KeyModulo(i64, i64),
    PartIs(i64),
    NumberAbove(i64),
    NumberIsNull,
    TextBelow(String),
    And(Box<Condition>, Box<Condition>),
    Or(Box<Condition>, Box<Condition>),
    Not(Box<Condition>),
}

impl Value {
    pub fn literal(value: Option<&Self>) -> String {
        match value {
            None => "NULL".to_owned(),
            Some(Self::Int(value)) => value.to_string(),
            Some(Self::Text(text)) => format!("'{text}'"),
        }
    }

    fn shown(value: Option<&Self>) -> String {
        match value {
            None => "null".to_owned(),
            Some(Self::Int(value)) => value.to_string(),
            Some(Self::Text(text)) => text.clone(),
        }
    }
}

fn int(row: &Row, column: ColumnId) -> Option<i64> {
    match row.get(&column) {
        Some(Value::Int(value)) => Some(*value),
        _ => None,
    }
}

impl Condition {
    /// As SQL; the names of columns change.
    pub fn sql(&self, model: &Model, alias: &str) -> String {
        let name = |id| format!("{alias}{}", model.name(id));
        match self {
            Self::All => "true".to_owned(),
            Self::KeyIn(keys) => format!("{} IN ({})", name(KEY), keys.iter().map(i64::to_string).collect::<Vec<_>>().join(", ")),
            Self::KeyBelow(key) => format!("{} < {key}", name(KEY)),
            Self::KeyModulo(divisor, rest) => format!("{} % {divisor} = {rest}", name(KEY)),
            Self::PartIs(part) => format!("{} = {part}", name(PART)),
            Self::NumberAbove(bound) => format!("{} > {bound}", name(NUMBER)),
            Self::NumberIsNull => format!("{} IS NULL", name(NUMBER)),
            Self::TextBelow(text) => format!("{} < '{text}'", name(TEXT)),
            Self::And(a, b) => format!("({} AND {})", a.sql(model, alias), b.sql(model, alias)),
            Self::Or(a, b) => format!("({} OR {})", a.sql(model, alias), b.sql(model, alias)),
            Self::Not(a) => format!("NOT ({})", a.sql(model, alias)),
        }
    }

    fn judge(&self, row: &Row) -> Option<bool> {
        match self {
            Self::All => Some(true),
            Self::KeyIn(keys) => int(row, KEY).map(|key| keys.contains(&key)),
            Self::KeyBelow(bound) => int(row, KEY).map(|key| key < *bound),
            Self::KeyModulo(divisor, rest) => int(row, KEY).map(|key| key % divisor == *rest),
            Self::PartIs(part) => int(row, PART).map(|value| value == *part),
            Self::NumberAbove(bound) => int(row, NUMBER).map(|value| value > *bound),
            Self::NumberIsNull => Some(int(row, NUMBER).is_none()),
            Self::TextBelow(text) => match row.get(&TEXT) {
                Some(Value::Text(value)) => Some(value < text),
                _ => None,
            },
            Self::And(a, b) => match (a.judge(row), b.judge(row)) {
                (Some(false), _) | (_, Some(false)) => Some(false),
                (Some(true), Some(true)) => Some(true),
                _ => None,
            },
            Self::Or(a, b) => match (a.judge(row), b.judge(row)) {
                (Some(true), _) | (_, Some(true)) => Some(true),
                (Some(false), Some(false)) => Some(false),
                _ => None,
            },
            Self::Not(a) => a.judge(row).map(|value| !value),
        }
    }

    pub fn holds(&self, row: &Row) -> bool {
        self.judge(row) == Some(true)
    }
}

impl Model {
    pub fn new(format_version: u8) -> Self {
        let column = |id, name: &str, kind| Column { id, name: name.to_owned(), kind };
        let columns =
            vec![column(KEY, "k", Kind::Bigint), column(PART, "part", Kind::Bigint), column(NUMBER, "n", Kind::Int), column(TEXT, "s", Kind::Text)];
        Self {
            columns,
            rows: Vec::new(),
            branches: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            format_version,
            next_column: 4,
            next_key: 1,
        }
    }

    pub fn name(&self, id: ColumnId) -> &str {
        &self.columns.iter().find(|column| column.id == id).unwrap().name
    }

    pub fn names(&self) -> String {
        self.columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>().join(", ")
    }

    pub fn next_key(&mut self) -> i64 {
        self.next_key += 1;
        self.next_key - 1
    }

    /// Keys so far.
    pub fn keys(&self) -> i64 {
        self.next_key
    }

    pub fn add_column(&mut self, name: &str, kind: Kind) {
        self.columns.push(Column { id: self.next_column, name: name.to_owned(), kind });
        self.next_column += 1;
    }

    pub fn head(&mut self, branch: Option<&str>) -> &mut Vec<Row> {
        match branch {
            Some(branch) => self.branches.get_mut(branch).unwrap(),
            None => &mut self.rows,
        }
    }

    /// The table as it is now.
    pub fn version(&self, rows: &[Row]) -> Version {
        Version { rows: rows.to_vec(), columns: self.columns.clone() }
    }
}

impl Version {
    /// Rows as the runner reads them.
    pub fn shown(&self, condition: &Condition) -> Vec<String> {
        let show = |row: &Row| self.columns.iter().map(|column| Value::shown(row.get(&column.id))).collect::<Vec<_>>().join("|");
        let mut rows: Vec<String> = self.rows.iter().filter(|row| condition.holds(row)).map(show).collect();
        rows.sort();
        rows
    }
}
