use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::case::{Case, Work};

/// A Python process that times the same work with PyTorch, one run at a time.
pub(crate) struct Torch {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Torch {
    /// Starts the process; `python3` has to know torch, torchvision and timm.
    pub(crate) fn start() -> Result<Self, Box<dyn Error>> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("peer/networks_torch.py");
        let started = Command::new("python3").arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = started.map_err(|error| format!("--peer torch: python3 could not be started: {error}"))?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("--peer torch: python3 has no pipes".into());
        };
        let mut torch = Self { child, input, output: BufReader::new(output) };
        match torch.line()?.as_str() {
            "ready" => Ok(torch),
            other => Err(format!("--peer torch: {other}").into()),
        }
    }

    /// Time of one run in milliseconds; the first of its kind builds the network.
    pub(crate) fn run(&mut self, case: &Case, work: Work, threads: usize) -> Result<f64, Box<dyn Error>> {
        writeln!(self.input, "{} {} {work} {threads}", case.name, case.batch)?;
        self.input.flush()?;
        let line = self.line()?;
        line.parse().map_err(|_| format!("--peer torch: {line}").into())
    }

    fn line(&mut self) -> Result<String, Box<dyn Error>> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            return Err("--peer torch: the Python process has ended; what it said stands above".into());
        }
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for Torch {
    fn drop(&mut self) {
        // It may have ended already, and then there is nothing to stop.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
