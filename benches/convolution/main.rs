//! Single convolutions of residual networks, 3×3 with padding 1 and as many outputs as inputs: forward pass, also with weights
//! that stay as they are, and forward pass with the gradients of input, weights and bias, beside PyTorch; on one thread, on two,
//! and on both beside another busy thread.
//!
//! Writes `convolution.json` to the folder that `FBP_RESULTS` names (`benches/results` without it), where rows of other
//! processors stay. Arguments: `--peer torch`, `--channels N` (layers with so many only), `--quick`. Ours and theirs take turns;
//! ratios are medians over these pairs.

#![expect(clippy::print_stdout, reason = "a benchmark talks to the person who started it")]

use std::error::Error;
use std::hint::{black_box, spin_loop};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{env, thread};

use faer::Par;
use faer::dyn_stack::{MemBuffer, MemStack};
use fbp_benches::random::{normal_vec, rng};
use fbp_benches::{Peer, Row, median, milliseconds};
use fbp_linalg::FeatureShape;
use fbp_linalg::conv2d::{Conv2d, Conv2dParams, ConvAdjoint, ConvForward, ConvWeightGrad, FixedConv2d};
use serde::{Deserialize, Serialize};

/// Channels, height and width of the images, and images of a batch.
const LAYERS: [[usize; 3]; 5] = [[64, 16, 16], [16, 28, 128], [32, 14, 128], [64, 7, 128], [128, 16, 32]];
/// The one that is also measured beside a busy thread.
const BUSY: [usize; 3] = LAYERS[0];
/// Pairs of runs of which the medians count, and the same with `--quick`.
const PAIRS: [usize; 2] = [50, 10];
/// Operations of the runs that make one measurement: a single short one is hardly longer than a thread takes to wake up.
const OPERATIONS: f64 = 4e9;
/// Time between two measurements: threads that have nothing to do spin for some milliseconds, theirs as ours.
const PAUSE: Duration = Duration::from_millis(10);

/// One row, with the keys of the results file.
#[derive(Clone, Serialize, Deserialize)]
struct Entry {
    channels: usize,
    size: usize,
    batch: usize,
    work: String,
    threads: usize,
    /// Whether another thread was busy beside it.
    busy: bool,
    ours_ms: f64,
    torch_ms: Option<f64>,
    /// PyTorch's time over ours: above 1 we are ahead.
    ratio: Option<f64>,
    /// Billions of operations a second that every product taken would come to.
    ours_gflops: f64,
    processor: String,
}

impl Row for Entry {
    fn processor(&self) -> &str {
        &self.processor
    }
}

/// A layer, with room for every result.
struct Layer {
    sizes: [usize; 3],
    conv: Conv2d,
    fixed: FixedConv2d<f32>,
    input: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
    cotangent: Vec<f32>,
    output: Vec<f32>,
    gradients: [Vec<f32>; 3],
    memory: MemBuffer,
}

impl Layer {
    fn new(sizes: [usize; 3]) -> Result<Self, Box<dyn Error>> {
        let [channels, size, batch] = sizes;
        let shape = FeatureShape::image(channels, size, size);
        let geometry = Conv2dParams::new(shape, channels, [3, 3]).padding([1, 1]).check()?;
        let (conv, mut random) = (Conv2d::for_networks(geometry), rng(1));
        let scratch = |par| {
            let passes = conv.forward_scratch::<f32>(batch, par).or(conv.adjoint_scratch::<f32>(batch, par));
            passes.or(conv.weight_grad_scratch::<f32>(batch, par))
        };
        let memory = MemBuffer::new(scratch(Par::Seq).or(scratch(Par::rayon(2))));
        let (len, weights) = (batch * geometry.in_len(), geometry.weight_len());
        let (input, weight) = (normal_vec(len, &mut random), normal_vec(weights, &mut random));
        Ok(Self {
            sizes,
            fixed: FixedConv2d::new(conv.clone(), weight.clone())?,
            conv,
            input,
            weight,
            bias: normal_vec(channels, &mut random),
            cotangent: normal_vec(len, &mut random),
            output: vec![0.0; len],
            gradients: [vec![0.0; len], vec![0.0; weights], vec![0.0; channels]],
            memory,
        })
    }

    fn run(&mut self, work: &str, par: Par) -> Result<(), Box<dyn Error>> {
        let (stack, weight) = (MemStack::new(&mut self.memory), &self.weight[..]);
        let (input, bias, output) = (&self.input[..], Some(&self.bias[..]), &mut self.output[..]);
        if work == "fixed" {
            self.fixed.forward(input, bias, output, par, stack)?;
        } else {
            self.conv.forward(ConvForward { input, weight, bias, output }, par, stack)?;
        }
        if work == "gradients" {
            let [input_grad, weight_grad, bias_grad] = &mut self.gradients;
            self.conv.adjoint(ConvAdjoint { cotangent: &self.cotangent, weight, input_grad }, par, stack)?;
            let (cotangent, bias_grad) = (&self.cotangent[..], Some(&mut bias_grad[..]));
            self.conv.weight_grad(ConvWeightGrad { input, cotangent, weight_grad, bias_grad }, par, stack)?;
        }
        black_box((&self.output, &self.gradients));
        Ok(())
    }
}

/// Measures one row.
fn measure(
    layer: &mut Layer,
    (work, threads, busy): (&'static str, usize, bool),
    torch: &mut Option<Peer>,
    pairs: usize,
) -> Result<Entry, Box<dyn Error>> {
    let [channels, size, batch] = layer.sizes;
    let passes = if work == "gradients" { 3.0 } else { 1.0 };
    let operations = passes * layer.conv.geometry().flops(batch) as f64;
    let runs = (OPERATIONS / operations).ceil().max(1.0);
    let par = if threads > 1 { Par::rayon(threads) } else { Par::Seq };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
    let mut run = || -> Result<f64, Box<dyn Error>> {
        let mut all = || milliseconds(|| (0..runs as usize).try_for_each(|_| layer.run(work, par)));
        // Errors of a pool have to be able to change threads.
        pool.install(|| all().map_err(|error| error.to_string())).map(|all| all / runs).map_err(Into::into)
    };
    let line = format!("{work} {channels} {size} {batch} {threads} {runs}");
    run()?;
    let (mut own, mut theirs) = (Vec::with_capacity(pairs), Vec::with_capacity(pairs));
    let stop = AtomicBool::new(!busy);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                spin_loop();
            }
        });
        let mut all = || -> Result<(), Box<dyn Error>> {
            for _ in 0..pairs {
                thread::sleep(PAUSE);
                own.push(run()?);
                if let Some(torch) = torch {
                    thread::sleep(PAUSE);
                    theirs.push(torch.run(&line)?);
                }
            }
            Ok(())
        };
        let end = all();
        stop.store(true, Ordering::Relaxed);
        end
    })?;
    let ratio = median(own.iter().zip(&theirs).map(|(own, theirs)| theirs / own).collect());
    let ours_ms = median(own).ok_or("nothing was measured")?;
    Ok(Entry {
        channels,
        size,
        batch,
        work: work.to_owned(),
        threads,
        busy,
        ours_ms,
        torch_ms: median(theirs),
        ratio,
        ours_gflops: operations / ours_ms / 1e6,
        processor: fbp_benches::processor(),
    })
}

fn run() -> Result<(), Box<dyn Error>> {
    let (mut quick, mut torch, mut channels) = (false, None, None);
    let mut words = env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--quick" => quick = true,
            "--channels" => channels = Some(words.next().ok_or("--channels needs a number")?.parse::<usize>()?),
            "--peer" => match words.next().as_deref() {
                Some("torch") => torch = Some(Peer::start("--peer torch", "convolution_torch.py")?),
                other => return Err(format!("no such peer: {other:?}; there is torch").into()),
            },
            // Cargo's flag, which means nothing here.
            "--bench" => {}
            other => return Err(format!("unknown argument {other:?}").into()),
        }
    }
    let (folder, pairs) = (fbp_benches::results_folder()?, PAIRS[usize::from(quick)]);
    println!(
        "| layer | work | threads | beside | ours, ms | GF/s | PyTorch, ms | PyTorch / ours |\n|---|---|---|---|---|---|---|---|"
    );
    let mut entries = Vec::new();
    for sizes in LAYERS.into_iter().filter(|[own, ..]| channels.is_none_or(|channels| channels == *own)) {
        let mut layer = Layer::new(sizes)?;
        let states = [(1, false), (2, false), (1, true), (2, true)];
        for (work, (threads, busy)) in
            ["forward", "fixed", "gradients"].into_iter().flat_map(|work| states.map(|state| (work, state)))
        {
            if busy && sizes != BUSY {
                continue;
            }
            let entry = measure(&mut layer, (work, threads, busy), &mut torch, pairs)?;
            let number = |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.2}"));
            let Entry { channels, size, batch, ours_ms, torch_ms, ratio, ours_gflops, .. } = entry;
            let beside = if busy { "a busy thread" } else { "nothing" };
            let (theirs, ratio) = (number(torch_ms), number(ratio));
            println!(
                "| {batch}×{channels}×{size}×{size} | {work} | {threads} | {beside} | {ours_ms:.2} | {ours_gflops:.0} | {theirs} | {ratio} |"
            );
            entries.push(entry);
            fbp_benches::write_rows(&folder.join("convolution.json"), &entries)?;
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    fbp_benches::status(run())
}
