use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// A Python process that times the same work with other programs, one run at a time, in turns with ours.
///
/// It says "ready" when it can begin, and answers every line with a number, or with a sentence on what is wrong.
#[derive(Debug)]
pub struct Peer {
    /// The flag that asked for it, for messages.
    flag: &'static str,
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Peer {
    /// Starts `benches/peer/SCRIPT` with `python3`, for the sake of this flag.
    ///
    /// # Errors
    /// If there is no such program, or the process says that it lacks something.
    pub fn start(flag: &'static str, script: &str) -> Result<Self, Box<dyn Error>> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("peer").join(script);
        let started = Command::new("python3").arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = started.map_err(|error| format!("{flag}: python3 could not be started: {error}"))?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(format!("{flag}: python3 has no pipes").into());
        };
        let mut peer = Self { flag, child, input, output: BufReader::new(output) };
        match peer.line()?.as_str() {
            "ready" => Ok(peer),
            other => Err(format!("{flag}: {other}").into()),
        }
    }

    /// Time in milliseconds of the run that a line asks for.
    ///
    /// # Errors
    /// If the process has ended or answers with something else than a number.
    pub fn run(&mut self, line: &str) -> Result<f64, Box<dyn Error>> {
        writeln!(self.input, "{line}")?;
        self.input.flush()?;
        let answer = self.line()?;
        answer.parse().map_err(|_| format!("{}: {answer}", self.flag).into())
    }

    fn line(&mut self) -> Result<String, Box<dyn Error>> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            return Err(format!("{}: the Python process has ended; what it said stands above", self.flag).into());
        }
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended already, and then there is nothing to stop.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
