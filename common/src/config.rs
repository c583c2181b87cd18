//! The configuration: defaults, then a file, the environment, flags, and `--conf`, each winning over the one before.
//!
//! Keys are declared in [`crate::keys`]; unknown ones are refused with the nearest known one. Values are checked when loaded, so that
//! [`Config::get`] cannot fail.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::keys::{self, Declaration, Key, Value};
use crate::{Error, ErrorCode, Result};

/// Prefix of environment variables: `CHAINALYTICS_SCHEDULER_HTTP_PORT` sets `scheduler.http-port`.
const ENV_PREFIX: &str = "CHAINALYTICS_";
/// Variables of that prefix that are no keys.
const ENV_OTHER: &[&str] = &["CHAINALYTICS_CONFIG"];
/// Read from the working directory where no file is named.
const DEFAULT_FILE: &str = "chainalytics.toml";
/// What a secret is shown as.
pub const REDACTED: &str = "********";
/// Parts of names of passed-on keys whose values are secrets.
const SECRET_WORDS: &[&str] = &["password", "secret", "token", "key.pem"];

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    Default,
    File,
    Environment,
    Flag,
    Conf,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Default => "default",
            Self::File => "file",
            Self::Environment => "environment",
            Self::Flag => "flag",
            Self::Conf => "conf",
        })
    }
}

/// What a configuration is made of.
#[derive(Debug, Default, Clone)]
pub struct LoadOptions {
    /// A file that must exist; else `chainalytics.toml` of the working directory is read if it is there.
    pub file: Option<PathBuf>,
    /// Environment variables; those without the prefix are ignored.
    pub environment: Vec<(String, String)>,
    /// Keys set by flags of their own, such as `--data-dir`.
    pub flags: Vec<(String, String)>,
    /// `--conf key=value`, in order.
    pub conf: Vec<(String, String)>,
}

impl LoadOptions {
    /// With the environment of this process.
    pub fn from_process() -> Self {
        let environment = std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))).collect();
        Self { environment, ..Self::default() }
    }
}

/// One key with its effective value, as `config show` prints it.
#[derive(Debug, Clone, Serialize)]
pub struct ConfigEntry {
    pub key: String,
    /// [`REDACTED`] for a secret that is set.
    pub value: String,
    pub source: Source,
}

#[derive(Debug, Clone)]
struct Setting {
    value: String,
    source: Source,
}

/// The effective configuration of a process.
#[derive(Clone)]
pub struct Config {
    /// Every declared key, and the passed-on keys that were set.
    settings: BTreeMap<String, Setting>,
    file: Option<PathBuf>,
}

impl fmt::Debug for Config {
    /// Shows no secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.entries().into_iter().map(|e| (e.key, e.value))).finish()
    }
}

impl Config {
    /// Reads and checks all layers.
    ///
    /// # Errors
    /// `Config`: unknown key (with the nearest known one), value of the wrong type, file that cannot be read or parsed.
    pub fn load(options: LoadOptions) -> Result<Self> {
        let mut config = Self::defaults();
        let file = match &options.file {
            Some(path) => Some(path.clone()),
            None => {
                let named = options.environment.iter().find(|(k, _)| k == "CHAINALYTICS_CONFIG").map(|(_, v)| PathBuf::from(v));
                named.or_else(|| Path::new(DEFAULT_FILE).is_file().then(|| PathBuf::from(DEFAULT_FILE)))
            }
        };
        if let Some(path) = file {
            let text = std::fs::read_to_string(&path)
                .map_err(|e| Error::new(ErrorCode::Config, format!("cannot read the configuration file {}: {e}", path.display())))?;
            for (key, value) in parse_file(&text, &path)? {
                config.put(&key, value, Source::File, &format!("in {}", path.display()))?;
            }
            config.file = Some(std::path::absolute(&path).unwrap_or(path));
        }
        for (name, value) in options.environment {
            if let Some(key) = env_key(&name)? {
                config.put(key, value, Source::Environment, &format!("in the environment ({name})"))?;
            }
        }
        for (key, value) in options.flags {
            config.put(&key, value, Source::Flag, "on the command line")?;
        }
        for (key, value) in options.conf {
            config.put(&key, value, Source::Conf, "after --conf")?;
        }
        config.fill_paths()?;
        Ok(config)
    }

    /// Defaults with everything local under `data_dir`; for tests and embedding.
    ///
    /// # Errors
    /// `Config` for a setting that cannot be used.
    pub fn with_data_dir(data_dir: &Path, conf: &[(&str, &str)]) -> Result<Self> {
        let mut config = Self::defaults();
        config.put("data-dir", data_dir.display().to_string(), Source::Flag, "in the call")?;
        for (key, value) in conf {
            config.put(key, (*value).to_owned(), Source::Conf, "in the call")?;
        }
        config.fill_paths()?;
        Ok(config)
    }

    /// The value of a key.
    pub fn get<T: Value + Default>(&self, key: &Key<T>) -> T {
        // Every declared key is there and was parsed when it was put in; the default is never reached.
        self.settings.get(key.name).and_then(|s| T::parse(&s.value)).unwrap_or_default()
    }

    /// Directory of all local state, absolute.
    pub fn data_dir(&self) -> PathBuf {
        PathBuf::from(self.get(&keys::DATA_DIR))
    }

    /// Directory of event logs, absolute.
    pub fn event_log_dir(&self) -> PathBuf {
        PathBuf::from(self.get(&keys::EVENT_LOG_DIR))
    }

    /// The file that was read, absolute.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// Whether a key has another source than its default.
    pub fn is_set(&self, key: &str) -> bool {
        self.settings.get(key).is_some_and(|s| s.source != Source::Default)
    }

    /// Passed-on keys that start with `prefix` (with the prefix), secrets included. Declared keys are left out.
    pub fn with_prefix(&self, prefix: &str) -> Vec<(String, String)> {
        let passed = self.settings.iter().filter(|(k, _)| k.starts_with(prefix) && declaration(k).is_none());
        passed.map(|(k, s)| (k.clone(), s.value.clone())).collect()
    }

    /// Every key with its value and source, sorted; secrets redacted.
    pub fn entries(&self) -> Vec<ConfigEntry> {
        let entry = |(key, setting): (&String, &Setting)| ConfigEntry {
            key: key.clone(),
            value: if is_secret(key) && !setting.value.is_empty() { REDACTED.to_owned() } else { redact_url(&setting.value) },
            source: setting.source.clone(),
        };
        self.settings.iter().map(entry).collect()
    }

    /// The settings that differ from the defaults, with `overrides`, as a configuration file (secrets included: keep it private).
    ///
    /// # Errors
    /// `Internal` if it cannot be written as TOML.
    pub fn to_toml(&self, overrides: &[(&str, String)]) -> Result<String> {
        let mut values: BTreeMap<&str, &str> =
            self.settings.iter().filter(|(_, s)| s.source != Source::Default).map(|(k, s)| (k.as_str(), s.value.as_str())).collect();
        for (key, value) in overrides {
            values.insert(key, value);
        }
        toml::to_string(&values).map_err(|e| Error::internal(format!("cannot write the configuration: {e}")))
    }

    /// Sets one key, as `--conf` does.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn set(&mut self, key: &str, value: impl Into<String>) -> Result<()> {
        self.put(key, value.into(), Source::Conf, "after --conf")
    }

    fn defaults() -> Self {
        let setting = |d: &Declaration| (d.name.to_owned(), Setting { value: d.default.to_owned(), source: Source::Default });
        Self { settings: keys::ALL.iter().map(setting).collect(), file: None }
    }

    fn put(&mut self, key: &str, value: String, source: Source, place: &str) -> Result<()> {
        match declaration(key) {
            Some(declared) => check(declared, &value, place)?,
            None if keys::PASSED_ON.iter().any(|p| key.starts_with(p) && key.len() > p.len()) => {}
            None => return Err(unknown(key, place)),
        }
        self.settings.insert(key.to_owned(), Setting { value, source });
        Ok(())
    }

    /// Fills in the paths that depend on the data directory and makes them absolute.
    fn fill_paths(&mut self) -> Result<()> {
        let set = self.get(&keys::DATA_DIR);
        let dir = if set.is_empty() { default_data_dir() } else { PathBuf::from(set) };
        let dir = std::path::absolute(&dir).map_err(|e| Error::io(format!("data-dir {}", dir.display()), e))?;
        let mut fill = |name: &str, value: String, always: bool| {
            if let Some(setting) = self.settings.get_mut(name)
                && (always || setting.value.is_empty())
            {
                setting.value = value;
            }
        };
        fill("data-dir", dir.display().to_string(), true);
        fill("catalog.uri", format!("sqlite:///{}", dir.join("catalog.db").display()), false);
        fill("catalog.warehouse", dir.join("warehouse").display().to_string(), false);
        fill("event-log.dir", dir.join("events").display().to_string(), false);
        Ok(())
    }
}

fn default_data_dir() -> PathBuf {
    let home = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let base = home("XDG_DATA_HOME").or_else(|| home("HOME").map(|h| h.join(".local/share")));
    base.map_or_else(|| PathBuf::from("chainalytics-data"), |b| b.join("chainalytics"))
}

fn declaration(key: &str) -> Option<&'static Declaration> {
    keys::ALL.iter().find(|d| d.name == key)
}

fn check(declared: &Declaration, value: &str, place: &str) -> Result<()> {
    use std::time::Duration;
    let good = match declared.kind {
        keys::Kind::Text => true,
        keys::Kind::Boolean => bool::parse(value).is_some(),
        keys::Kind::Integer { max } => u64::parse(value).is_some_and(|n| n <= max),
        keys::Kind::Duration => Duration::parse(value).is_some(),
        keys::Kind::Bytes => bytesize::ByteSize::parse(value).is_some(),
    };
    if good {
        return Ok(());
    }
    let shown = if declared.secret { REDACTED } else { value };
    Err(Error::new(ErrorCode::Config, format!("{} = {shown:?} {place} is not {}", declared.name, declared.kind.describe())))
}

fn unknown(key: &str, place: &str) -> Error {
    let nearest = keys::ALL
        .iter()
        .map(|d| (strsim::jaro_winkler(key, d.name), d.name))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .filter(|(likeness, _)| *likeness > 0.7);
    let hint = nearest.map(|(_, name)| format!("; did you mean {name:?}?")).unwrap_or_default();
    Error::new(ErrorCode::Config, format!("unknown configuration key {key:?} {place}{hint}"))
}

/// `CHAINALYTICS_A_B_C` to the key whose name has those words, whether they are joined by dots or hyphens.
fn env_key(name: &str) -> Result<Option<&'static str>> {
    let Some(words) = name.strip_prefix(ENV_PREFIX) else { return Ok(None) };
    if ENV_OTHER.contains(&name) {
        return Ok(None);
    }
    let normal = |key: &str| key.replace(['.', '-'], "_").to_uppercase();
    match keys::ALL.iter().find(|d| normal(d.name) == words) {
        Some(declared) => Ok(Some(declared.name)),
        None => Err(unknown(&words.to_lowercase().replace('_', "."), &format!("in the environment ({name})"))),
    }
}

fn parse_file(text: &str, path: &Path) -> Result<Vec<(String, String)>> {
    let wrong = |what: String| Error::new(ErrorCode::Config, format!("{}: {what}", path.display()));
    let table: toml::Table = text.parse().map_err(|e: toml::de::Error| wrong(e.to_string()))?;
    let mut out = Vec::new();
    flatten(&table, "", &mut out).map_err(wrong)?;
    Ok(out)
}

/// `[kafka] bootstrap.servers = "x"` and `"kafka.bootstrap.servers" = "x"` are the same key.
fn flatten(table: &toml::Table, prefix: &str, out: &mut Vec<(String, String)>) -> std::result::Result<(), String> {
    for (name, value) in table {
        let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        match value {
            toml::Value::Table(inner) => flatten(inner, &key, out)?,
            toml::Value::String(text) => out.push((key, text.clone())),
            toml::Value::Integer(n) => out.push((key, n.to_string())),
            toml::Value::Float(n) => out.push((key, n.to_string())),
            toml::Value::Boolean(b) => out.push((key, b.to_string())),
            other => return Err(format!("{key} is {}, expected text, a number or true/false", other.type_str())),
        }
    }
    Ok(())
}

fn is_secret(key: &str) -> bool {
    match declaration(key) {
        Some(declared) => declared.secret,
        None => SECRET_WORDS.iter().any(|word| key.contains(word)),
    }
}

/// Hides the password of a URL such as `postgresql://user:pw@host/db`.
pub fn redact_url(text: &str) -> String {
    let Ok(mut url) = url::Url::parse(text) else { return text.to_owned() };
    if url.password().is_none() || url.set_password(Some(REDACTED)).is_err() {
        return text.to_owned();
    }
    url.to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::time::Duration;

    fn pairs(all: &[(&str, &str)]) -> Vec<(String, String)> {
        all.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn every_default_can_be_used() {
        for declared in keys::ALL {
            check(declared, declared.default, "as default").unwrap();
            assert!(!declared.doc.is_empty());
        }
    }

    #[test]
    fn layers_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.toml");
        std::fs::write(&file, "[scheduler]\nport = 1\nhttp-port = 2\n[query]\ntimeout = '5s'\n[kafka]\n'sasl.password' = 'x'\n").unwrap();
        let config = Config::load(LoadOptions {
            file: Some(file.clone()),
            environment: pairs(&[("CHAINALYTICS_SCHEDULER_HTTP_PORT", "3"), ("HOME", "/h"), ("CHAINALYTICS_HISTORY_PORT", "4")]),
            flags: pairs(&[("data-dir", "/d")]),
            conf: pairs(&[("history.port", "5"), ("ballista.x.y", "z")]),
        })
        .unwrap();
        assert_eq!(config.get(&keys::SCHEDULER_PORT), 1);
        assert_eq!(config.get(&keys::SCHEDULER_HTTP_PORT), 3);
        assert_eq!(config.get(&keys::HISTORY_PORT), 5);
        assert_eq!(config.get(&keys::QUERY_TIMEOUT), Duration::from_secs(5));
        assert_eq!(config.get(&keys::CATALOG_URI), "sqlite:////d/catalog.db");
        assert_eq!(config.data_dir(), PathBuf::from("/d"));
        assert_eq!(config.with_prefix("ballista."), pairs(&[("ballista.x.y", "z")]));
        assert!(config.is_set("history.port") && !config.is_set("broker.port"));
        assert!(!format!("{config:?}").contains("\"x\""));
        // What is written for child processes reads back the same.
        std::fs::write(&file, config.to_toml(&[("broker.port", "7".to_owned())]).unwrap()).unwrap();
        let again = Config::load(LoadOptions { file: Some(file), ..LoadOptions::default() }).unwrap();
        assert_eq!(again.get(&keys::BROKER_PORT), 7);
        assert_eq!(again.get(&keys::SCHEDULER_HTTP_PORT), 3);
        assert_eq!(again.with_prefix("kafka."), pairs(&[("kafka.sasl.password", "x")]));
    }

    #[test]
    fn refuses_with_the_nearest_key() {
        let load = |conf: &[(&str, &str)]| Config::load(LoadOptions { conf: pairs(conf), ..LoadOptions::default() }).unwrap_err();
        let error = load(&[("scheduler.prot", "1")]);
        assert_eq!(error.code(), ErrorCode::Config);
        assert!(error.message().contains("\"scheduler.port\""), "{error}");
        assert!(load(&[("scheduler.port", "70000")]).message().contains("a whole number"));
        assert!(load(&[("query.adaptive", "yes")]).message().contains("true or false"));
        let environment = pairs(&[("CHAINALYTICS_QUERY_ADAPTIV", "true")]);
        let error = Config::load(LoadOptions { environment, ..LoadOptions::default() }).unwrap_err();
        assert!(error.message().contains("query.adaptive"), "{error}");
    }

    #[test]
    fn secrets_are_hidden() {
        let conf = pairs(&[("s3.secret-access-key", "hush"), ("catalog.uri", "postgresql://u:hush@h/d"), ("kafka.sasl.password", "hush")]);
        let config = Config::load(LoadOptions { conf, ..LoadOptions::default() }).unwrap();
        assert!(!serde_json_free(&config.entries()).contains("hush"));
        assert_eq!(config.get(&keys::S3_SECRET_ACCESS_KEY), "hush");
    }

    fn serde_json_free(entries: &[ConfigEntry]) -> String {
        format!("{entries:?}")
    }
}
