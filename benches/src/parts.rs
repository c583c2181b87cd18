//! Real parts beside the binary: Apache Kafka, a schema registry, PostgreSQL. `scripts/parts` installs, starts and stops them.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Result;

/// Parts that run in a directory; they stop with the value, the last one first.
#[derive(Debug)]
pub struct Parts {
    dir: PathBuf,
    offset: u16,
    names: Vec<String>,
    env: BTreeMap<String, String>,
    settings: Vec<(String, String)>,
}

impl Parts {
    /// Parts of `dir`, their ports moved by `offset`; `settings` are environment variables of their scripts. Nothing is started yet.
    ///
    /// # Errors
    /// If the directory cannot be made.
    pub fn new(dir: &Path, offset: u16, settings: &[(&str, String)]) -> Result<Self> {
        std::fs::create_dir_all(dir).map_err(|e| format!("cannot create {}: {e}", dir.display()))?;
        // PostgreSQL does not run as root: whoever runs it instead must get through.
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(dir, open).map_err(|e| format!("cannot open {}: {e}", dir.display()))?;
        let settings = settings.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
        Ok(Self { dir: dir.to_owned(), offset, names: Vec::new(), env: BTreeMap::new(), settings })
    }

    /// Starts a part, also again after [`Self::down`] or a kill, with the same data and ports.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn up(&mut self, name: &str) -> Result<()> {
        if !self.names.iter().any(|known| known == name) {
            self.names.push(name.to_owned());
        }
        let dir = self.dir.display().to_string();
        self.script(name, &["start", &dir, &self.offset.to_string()])?;
        let env = self.script(name, &["env", &dir])?;
        self.env.extend(env.lines().filter_map(|line| line.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())));
        Ok(())
    }

    /// Stops a part in order.
    ///
    /// # Errors
    /// If its script fails.
    pub fn down(&self, name: &str) -> Result<()> {
        self.script(name, &["stop", &self.dir.display().to_string()]).map(|_| ())
    }

    /// Process id of a running part.
    ///
    /// # Errors
    /// If it was not started.
    pub fn pid(&self, name: &str) -> Result<u32> {
        let path = self.dir.join(name).join("pid");
        let text = std::fs::read_to_string(&path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
        text.trim().parse().map_err(|e| format!("no pid in {}: {e}", path.display()))
    }

    /// Where a part's own output goes.
    #[must_use]
    pub fn log(&self, name: &str) -> PathBuf {
        self.dir.join(name).join("log")
    }

    /// What the parts say of themselves, such as `KAFKA_BOOTSTRAP_SERVERS`.
    ///
    /// # Errors
    /// If no part gave it.
    pub fn get(&self, key: &str) -> Result<&str> {
        self.env.get(key).map(String::as_str).ok_or_else(|| format!("no part gave {key}"))
    }

    fn script(&self, name: &str, args: &[&str]) -> Result<String> {
        let script = script(name);
        let envs = self.settings.iter().map(|(key, value)| (key, value));
        let output =
            Command::new(&script).args(args).envs(envs).stdin(Stdio::null()).output().map_err(|e| format!("cannot run {}: {e}", script.display()))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(format!("{name} {args:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        for name in self.names.iter().rev() {
            if let Err(error) = self.down(name) {
                crate::note(&error);
            }
        }
    }
}

/// The script of a part.
#[must_use]
pub fn script(name: &str) -> PathBuf {
    crate::results::folder().join("../scripts/parts").join(format!("{name}.sh"))
}
