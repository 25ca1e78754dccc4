//! Gradients of runs of layers without candle's sweep.
//!
//! candle's own backward sweep fills a tensor with zeros and adds to it for every gradient, also where nothing else adds: two
//! passes over every feature, a quarter of a training step of a small residual network. Here a run of layers is *one* node of
//! candle's graph. Its forward pass leaves its operations on a [`Tape`], its backward pass goes through them once and adds only
//! where a feature has several uses. Losses, optimisers and whatever else holds a tensor see nothing of this. With [`backward`]
//! in place of candle's own method the gradients of the parameters too pass its sweep by.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::backprop::GradStore;
use candle_core::shape::ShapeWithOneHole;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, DType, Layout, Result, Shape, Tensor, TensorId, Var};

use crate::ModelError;
use crate::ops::{Call, Clip, add_clipped, with_values};

/// The operations of a forward pass that led from tensors with gradients to others, in their order.
#[derive(Default)]
pub(crate) struct Tape {
    records: RefCell<Vec<Record>>,
}

impl fmt::Debug for Tape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a tape of {} operations", self.records.borrow().len())
    }
}

struct Record {
    step: Step,
    output: Tensor,
}

/// What a gradient goes through.
enum Step {
    /// One of this crate's operations.
    Call(Call),
    /// The same values in another shape.
    Same(Tensor),
    /// Tensor operations that candle differentiates: what went in, as a copy that ends candle's graph, and where it came from.
    Composed(Vec<(Tensor, Var)>),
}

/// Gradients by tensor.
type Gradients = HashMap<TensorId, Tensor>;

impl Tape {
    fn push(&self, step: Step, output: &Tensor) {
        if output.track_op() {
            self.records.borrow_mut().push(Record { step, output: output.clone() });
        }
    }

    /// Runs an operation and remembers it.
    pub(crate) fn run(&self, call: Call) -> Result<Tensor> {
        let output = call.run()?;
        self.push(Step::Call(call), &output);
        Ok(output)
    }

    /// The values of a tensor in another shape.
    pub(crate) fn reshape(&self, input: &Tensor, shape: impl ShapeWithOneHole) -> Result<Tensor> {
        let output = input.reshape(shape)?;
        self.same(input, &output);
        Ok(output)
    }

    /// A tensor, laid out row by row.
    pub(crate) fn contiguous(&self, input: &Tensor) -> Result<Tensor> {
        let output = input.contiguous()?;
        self.same(input, &output);
        Ok(output)
    }

    fn same(&self, input: &Tensor, output: &Tensor) {
        if input.id() != output.id() {
            self.push(Step::Same(input.clone()), output);
        }
    }

    /// Runs what is made of candle's operations. `f` gets the inputs again; everything else that it uses has to be a variable or a
    /// constant.
    pub(crate) fn compose(
        &self,
        inputs: &[Tensor],
        f: impl FnOnce(&[Tensor]) -> std::result::Result<Tensor, ModelError>,
    ) -> std::result::Result<Tensor, ModelError> {
        let mut seen = Vec::with_capacity(inputs.len());
        let mut copies = Vec::new();
        for input in inputs {
            if input.track_op() {
                let copy = Var::from_tensor(&input.detach())?;
                seen.push(copy.as_tensor().clone());
                copies.push((input.clone(), copy));
            } else {
                seen.push(input.clone());
            }
        }
        let output = f(&seen)?;
        self.push(Step::Composed(copies), &output);
        Ok(output)
    }
}

/// Adds a gradient to what a tensor has.
fn add(gradients: &mut Gradients, tensor: TensorId, gradient: Tensor) -> Result<()> {
    let sum = match gradients.remove(&tensor) {
        Some(other) => add_clipped(&other.contiguous()?, &gradient.contiguous()?, Clip::NONE)?,
        None => gradient,
    };
    gradients.insert(tensor, sum);
    Ok(())
}

impl Record {
    /// Hands the gradient of the output on.
    fn backward(&self, gradient: &Tensor, gradients: &mut Gradients) -> Result<()> {
        match &self.step {
            Step::Call(call) => {
                let found = call.gradients(&self.output, gradient)?;
                for (argument, gradient) in call.arguments().iter().zip(found) {
                    if let Some(gradient) = gradient.filter(|_| argument.track_op()) {
                        add(gradients, argument.id(), gradient)?;
                    }
                }
            }
            Step::Same(input) => add(gradients, input.id(), gradient.reshape(input.shape())?)?,
            Step::Composed(copies) => {
                let mut store = (&self.output * gradient)?.sum_all()?.backward()?;
                for (input, copy) in copies {
                    if let Some(gradient) = store.remove(copy) {
                        add(gradients, input.id(), gradient)?;
                    }
                }
                // What is left belongs to variables.
                let ids: Vec<TensorId> = store.get_ids().copied().collect();
                for id in ids {
                    if let Some(gradient) = store.get_id(id) {
                        add(gradients, id, gradient.clone())?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// A run of layers as one node of candle's graph.
struct Run {
    records: Vec<Record>,
    input: Tensor,
    /// Values of the output, and which tensor it is on the tape.
    output: (Tensor, TensorId),
    parameters: Arc<Mutex<Gradients>>,
}

const NAME: &str = "layers";

/// Runs layers from `input` with a tape, so that the gradients of `input` and of `parameters` cost one sweep over it. Without
/// gradients nothing is kept.
pub(crate) fn run_with_tape(
    input: &Tensor,
    parameters: &[Var],
    layers: impl FnOnce(&Tape) -> std::result::Result<Tensor, ModelError>,
) -> std::result::Result<Tensor, ModelError> {
    let tape = Tape::default();
    let output = layers(&tape)?;
    let output = tape.contiguous(&output)?;
    if !output.track_op() || output.id() == input.id() {
        return Ok(output);
    }
    let found = Arc::new(Mutex::new(Gradients::new()));
    // One number for each parameter, through which candle asks for its gradient.
    let requests = parameters.iter().map(|var| var.apply_op1(Request(found.clone()))).collect::<Result<Vec<_>>>()?;
    let requests = match requests.as_slice() {
        [] => Tensor::zeros(1, DType::F32, input.device())?,
        some => Tensor::cat(some, 0)?,
    };
    let records = tape.records.into_inner();
    let run = Run { records, input: input.clone(), output: (output.detach(), output.id()), parameters: found };
    Ok(input.apply_op2(&requests, run)?)
}

impl CustomOp2 for Run {
    fn name(&self) -> &'static str {
        NAME
    }

    /// What has been computed already.
    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        let values = with_values(NAME, &self.output.0, |values| Ok(values.to_vec()))?;
        Ok((CpuStorage::F32(values), self.output.0.shape().clone()))
    }

    fn bwd(
        &self,
        _: &Tensor,
        requests: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let mut direct = DIRECT.take();
        let mut gradients = Gradients::from([(self.output.1, grad.contiguous()?)]);
        for record in self.records.iter().rev() {
            if let Some(gradient) = gradients.remove(&record.output.id()) {
                record.backward(&gradient, &mut gradients)?;
            }
        }
        let input = gradients.remove(&self.input.id());
        match &mut direct {
            Some(direct) => gradients.into_iter().try_for_each(|(id, gradient)| add(direct, id, gradient))?,
            None => *self.parameters.lock().unwrap_or_else(PoisonError::into_inner) = gradients,
        }
        DIRECT.set(direct);
        Ok((input, requests.track_op().then(|| requests.zeros_like()).transpose()?))
    }
}

thread_local! {
    /// Where runs leave the gradients of their parameters while [`backward`] is at work; a run takes it away while it works itself,
    /// as its thread may then do other work that has waited.
    static DIRECT: Cell<Option<Gradients>> = const { Cell::new(None) };
}

/// Puts back what was there before.
struct Restored(Option<Gradients>);

impl Drop for Restored {
    fn drop(&mut self) {
        DIRECT.set(self.0.take());
    }
}

/// Gradients of a scalar loss, as [`Tensor::backward`] gives them, without its two passes over every parameter: candle adds what
/// it gets to zeros.
///
/// # Errors
/// [`ModelError::Tensor`] if an operation has no gradient.
pub fn backward(loss: &Tensor) -> std::result::Result<GradStore, ModelError> {
    let restored = Restored(DIRECT.replace(Some(Gradients::new())));
    let mut store = loss.backward()?;
    let direct = DIRECT.take().unwrap_or_default();
    drop(restored);
    for (id, gradient) in direct {
        let sum = match store.get_id(id) {
            Some(other) => (other + &gradient)?,
            None => gradient,
        };
        store.insert_id(id, sum);
    }
    Ok(store)
}

/// Stands for the gradient of a parameter: candle's sweep comes here after the run that computes it.
struct Request(Arc<Mutex<Gradients>>);

impl CustomOp1 for Request {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(vec![0.0]), Shape::from(1)))
    }

    fn bwd(&self, parameter: &Tensor, _: &Tensor, _: &Tensor) -> Result<Option<Tensor>> {
        Ok(self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&parameter.id()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::random;
    use crate::{Network, zoo};

    #[test]
    fn gradients_past_candle_are_those_of_candle() {
        let spec = zoo::spec("resnet20").unwrap().adapted([1, 8, 8], 10).unwrap();
        let mut network = Network::new(&spec, 1).unwrap();
        network.set_training(true);
        let vars = network.vars_of(0..network.stages().len()).unwrap();
        let (images, others) = (random(&[3, 1, 8, 8], 2), random(&[2, 1, 8, 8], 3));
        // Two runs of the same layers, and a parameter that the loss also reaches without them.
        let loss = || {
            let [first, second] =
                [&images, &others].map(|x| network.forward(x).unwrap().sqr().unwrap().sum_all().unwrap());
            let direct = vars[0].as_tensor().sqr().unwrap().sum_all().unwrap();
            ((first + second).unwrap() + direct).unwrap()
        };
        let (ours, theirs) = (backward(&loss()).unwrap(), loss().backward().unwrap());
        for var in &vars {
            let of = |store: &GradStore| store.get(var).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let (ours, theirs) = (of(&ours), of(&theirs));
            let largest = theirs.iter().fold(0.0_f32, |most, v| most.max(v.abs()));
            // Sums of three gradients in another order.
            let close = |(a, b): (&f32, &f32)| (a - b).abs() <= 4.0 * f32::EPSILON * largest;
            assert!(ours.iter().zip(&theirs).all(close));
        }
        // Nothing is left behind for the next sweep of candle's own.
        assert!(DIRECT.take().is_none());
    }
}
