//! SQL at the command line: cutting scripts, running statements one after the other, printing rows, the prompt.

pub mod print;
pub mod prompt;
pub mod run;
pub mod split;
