//! Real servers beside the binary: `scripts/parts` installs, starts and stops them.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard};

use tempfile::TempDir;

/// Two cores carry one set of parts at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Parts that run; they stop with the value, the last one first.
pub struct Parts {
    dir: TempDir,
    names: Vec<&'static str>,
    env: BTreeMap<String, String>,
    _alone: MutexGuard<'static, ()>,
}

impl Parts {
    /// `None`, with the reason printed, if the tests run without parts.
    #[allow(clippy::print_stdout)]
    pub fn start(names: &[&'static str], offset: u16) -> Option<Self> {
        if std::env::var_os("TEST_PARTS").is_none() {
            println!("skipped: TEST_PARTS is not set, so no {} is started", names.join(", "));
            return None;
        }
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // PostgreSQL does not run as root: whoever runs it instead must get through.
        let dir = tempfile::Builder::new().prefix("chainalytics-parts-").permissions(PermissionsExt::from_mode(0o755)).tempdir().unwrap();
        let mut parts = Self { dir, names: Vec::new(), env: BTreeMap::new(), _alone: alone };
        for name in names {
            parts.names.push(name);
            let dir = parts.dir.path().display().to_string();
            parts.script(name, &["start", &dir, &offset.to_string()]);
            let env = parts.script(name, &["env", &dir]);
            parts.env.extend(env.lines().filter_map(|line| line.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())));
        }
        Some(parts)
    }

    fn script(&self, name: &str, args: &[&str]) -> String {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("scripts/parts").join(format!("{name}.sh"));
        let output = Command::new(script).args(args).stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{name} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What a part says about itself.
    pub fn get(&self, key: &str) -> &str {
        self.env.get(key).unwrap_or_else(|| panic!("no part gave {key}"))
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        for name in self.names.iter().rev() {
            let script = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("scripts/parts").join(format!("{name}.sh"));
            let _stopped = Command::new(script).arg("stop").arg(self.dir.path()).status();
        }
    }
}
