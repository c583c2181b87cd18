//! Progress on stderr: bars that are redrawn on a terminal, plain lines at intervals elsewhere, nothing with --quiet.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chainalytics_client::ProgressSink;
use chainalytics_proto::v1::Progress;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use parking_lot::Mutex;

use crate::context::Context;
use crate::output;

/// Without a terminal, at most one line in this time.
const LINE_INTERVAL: Duration = Duration::from_secs(5);
const DRAW_HZ: u8 = 8;

/// Several bars, one below the other.
#[derive(Clone)]
pub struct Bars {
    multi: MultiProgress,
    kind: Kind,
    width: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Terminal,
    Lines,
    Silent,
}

impl Bars {
    /// `width` characters are kept for the names.
    pub fn new(context: &Context, width: usize) -> Self {
        let kind = match (context.quiet(), output::stderr_is_terminal()) {
            (true, _) => Kind::Silent,
            (false, true) => Kind::Terminal,
            (false, false) => Kind::Lines,
        };
        let target = if kind == Kind::Terminal { ProgressDrawTarget::stderr_with_hz(DRAW_HZ) } else { ProgressDrawTarget::hidden() };
        Self { multi: MultiProgress::with_draw_target(target), kind, width }
    }

    /// A bar; `total` 0 = not known yet.
    pub fn add(&self, name: &str, total: u64) -> Bar {
        let bar = self.multi.add(if total > 0 { ProgressBar::new(total) } else { ProgressBar::new_spinner() });
        let name = format!("{name:width$}", width = self.width);
        bar.set_style(if total > 0 { bar_style() } else { spinner_style() });
        bar.set_prefix(name.clone());
        if self.kind == Kind::Terminal {
            bar.enable_steady_tick(Duration::from_millis(150));
        }
        let state = State { total, printed: Instant::now(), text: String::new() };
        Bar { bar, name, kind: self.kind, started: Instant::now(), state: Arc::new(Mutex::new(state)) }
    }

    /// A line above the bars.
    pub fn note(&self, line: &str) {
        match self.kind {
            Kind::Terminal => {
                let _ = self.multi.println(line);
            }
            Kind::Lines => output::note(line),
            Kind::Silent => {}
        }
    }
}

/// One piece of work.
#[derive(Clone)]
pub struct Bar {
    bar: ProgressBar,
    name: String,
    kind: Kind,
    started: Instant,
    state: Arc<Mutex<State>>,
}

struct State {
    total: u64,
    printed: Instant,
    text: String,
}

impl Bar {
    /// How far it is. A `total` of 0 leaves what was known.
    pub fn set(&self, done: u64, total: u64, text: &str) {
        let mut state = self.state.lock();
        if total > 0 && total != state.total {
            state.total = total;
            self.bar.set_length(total);
            self.bar.set_style(bar_style());
        }
        self.bar.set_position(done);
        self.bar.set_message(text.to_owned());
        if self.kind == Kind::Lines && state.printed.elapsed() >= LINE_INTERVAL {
            state.printed = Instant::now();
            let of = if state.total > 0 { format!("{done}/{}", state.total) } else { String::new() };
            output::note(&format!("{}  {of} {text}", self.name));
        }
        text.clone_into(&mut state.text);
    }

    /// It is done; `text` stays.
    pub fn done(&self, text: &str) {
        self.end("✓", text);
    }

    /// It failed.
    pub fn failed(&self, text: &str) {
        self.end("✗", text);
    }

    fn end(&self, mark: &str, text: &str) {
        let text = format!("{mark} {text} ({:.1} s)", self.started.elapsed().as_secs_f64());
        self.bar.set_style(ended_style());
        self.bar.finish_with_message(text.clone());
        if self.kind == Kind::Lines {
            output::note(&format!("{}  {text}", self.name));
        }
    }

    /// Takes a driver's progress.
    pub fn sink(&self) -> ProgressSink {
        let bar = self.clone();
        Arc::new(move |progress: &Progress| bar.set(progress.done, progress.total, &describe(progress)))
    }
}

fn describe(progress: &Progress) -> String {
    match progress.rows {
        0 => progress.stage.clone(),
        rows => format!("{}, {} rows", progress.stage, output::thousands(rows)),
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn bar_style() -> ProgressStyle {
    style("{prefix} [{bar:30}] {percent:>3}% {wide_msg}").progress_chars("=> ")
}

fn spinner_style() -> ProgressStyle {
    style("{prefix} {spinner} {wide_msg}")
}

fn ended_style() -> ProgressStyle {
    style("{prefix} {wide_msg}")
}

/// The one line of a submitted run.
#[derive(Clone)]
pub struct RunLine {
    bars: Bars,
    bar: Bar,
}

impl RunLine {
    pub fn new(context: &Context, name: &str) -> Self {
        let bars = Bars::new(context, name.chars().count());
        let bar = bars.add(name, 0);
        Self { bars, bar }
    }

    pub fn sink(&self) -> ProgressSink {
        self.bar.sink()
    }

    /// A piece of the driver's log.
    pub fn print(&self, text: &str) {
        self.bars.note(text.trim_end_matches('\n'));
    }

    pub fn finish(&self) {
        self.bar.bar.finish_and_clear();
    }
}
