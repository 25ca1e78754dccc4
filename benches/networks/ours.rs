use std::error::Error;
use std::hint::black_box;

use candle_core::{Device, Tensor};
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::{MatMut, MatRef, Par};
use fbp_benches::random::{normal_vec, rng};
use fbp_inverse::joint::{FrozenRest, RestForward, RestVjp, TapeMemory};
use fbp_inverse::{Interval, ReverseChain};
use fbp_models::ops::cross_entropy;
use fbp_models::{AdamW, AdamWParams, Network};

use crate::case::{Case, Work};

/// A network with all that its three kinds of work need.
pub(crate) struct Ours {
    case: &'static Case,
    network: Network,
    optimiser: AdamW,
    images: Tensor,
    labels: Vec<u32>,
    product: Product,
}

/// The network as targets see it: a frozen rest with its tape.
struct Product {
    chain: ReverseChain<f32>,
    at: Vec<f32>,
    output: Vec<f32>,
    cotangent: Vec<f32>,
    gradient: Vec<f32>,
    tape: TapeMemory<f32>,
    memory: MemBuffer,
}

impl Ours {
    pub(crate) fn new(case: &'static Case) -> Result<Self, Box<dyn Error>> {
        let spec = case.spec()?;
        let network = Network::new(&spec, 0)?;
        let [channels, height, width] = spec.input;
        let values: Vec<f32> = normal_vec(case.batch * channels * height * width, &mut rng(1));
        let labels = (0..case.batch as u32).map(|i| i % spec.classes as u32).collect();
        let product = Product::new(&network, values.clone(), case.batch)?;
        let images = Tensor::from_vec(values, (case.batch, channels, height, width), &Device::Cpu)?;
        let vars = network.vars_of(0..network.stages().len())?;
        let optimiser = AdamW::new(vars, AdamWParams::default())?;
        Ok(Self { case, network, optimiser, images, labels, product })
    }

    pub(crate) fn case(&self) -> &'static Case {
        self.case
    }

    pub(crate) fn network(&self) -> &Network {
        &self.network
    }

    pub(crate) fn images(&self) -> &Tensor {
        &self.images
    }

    pub(crate) fn labels(&self) -> &[u32] {
        &self.labels
    }

    pub(crate) fn run(&mut self, work: Work) -> Result<(), Box<dyn Error>> {
        match work {
            Work::Step => {
                self.network.set_training(true);
                let loss = cross_entropy(&self.network.forward(black_box(&self.images))?, &self.labels)?;
                self.optimiser.backward_step(&loss)?;
            }
            Work::Inference => {
                self.network.set_training(false);
                black_box(self.network.infer(black_box(&self.images))?);
            }
            Work::Product => self.product.run(self.case.batch)?,
        }
        Ok(())
    }
}

impl Product {
    fn new(network: &Network, at: Vec<f32>, batch: usize) -> Result<Self, Box<dyn Error>> {
        let chain = network.reverse_chain(0, Interval::EVERYTHING)?;
        let rest = chain.rest(0).ok_or("a chain without stages")?;
        let par = Par::rayon(rayon::current_num_threads());
        let scratch = rest.forward_scratch(batch, par).or(rest.vjp_scratch(batch, 1, par));
        let (memory, tape) = (MemBuffer::new(scratch), TapeMemory::new(rest.tape_lens().iter().sum(), batch));
        let outputs = rest.out_len() * batch;
        let cotangent = normal_vec(outputs, &mut rng(2));
        let gradient = vec![0.0; at.len()];
        Ok(Self { chain, at, output: vec![0.0; outputs], cotangent, gradient, tape, memory })
    }

    fn run(&mut self, batch: usize) -> Result<(), Box<dyn Error>> {
        let rest = self.chain.rest(0).ok_or("a chain without stages")?;
        let threads = rayon::current_num_threads();
        let par = if threads > 1 { Par::rayon(threads) } else { Par::Seq };
        let (lens, stack) = (rest.tape_lens(), MemStack::new(&mut self.memory));
        let at = MatRef::from_column_major_slice(&self.at, rest.in_len(), batch);
        let output = MatMut::from_column_major_slice_mut(&mut self.output, rest.out_len(), batch);
        rest.forward(RestForward { at, output, tape: self.tape.view_mut(lens, batch) }, par, stack)?;
        let cotangents_out = MatRef::from_column_major_slice(&self.cotangent, rest.out_len(), batch);
        let cotangents_in = MatMut::from_column_major_slice_mut(&mut self.gradient, rest.in_len(), batch);
        rest.vjp(RestVjp { at, tape: self.tape.view(lens, batch), cotangents_out, cotangents_in }, par, stack)?;
        black_box(&self.gradient);
        Ok(())
    }
}
