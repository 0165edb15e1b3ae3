//! Adam (Kingma & Ba 2015) whose state can be read and put back, for checkpoints.
//!
//! tch's own optimisers keep theirs to themselves. Steps are libtorch's, to the last bit on a CPU (a test compares):
//! weight decay is added to the gradient, both means are corrected for their start at zero. Beside it: gradient
//! clipping, and the scale of the loss in half precision. Neighbours: `fit` steps, `checkpoint` keeps the state.

use tch::nn::VarStore;
use tch::{Kind, TchError, Tensor};

const BETA1: f64 = 0.9;
const BETA2: f64 = 0.999;
const EPSILON: f64 = 1e-8;

/// The optimiser of one network.
#[derive(Debug)]
pub struct Adam {
    /// By name, so that the order is always the same.
    pub parameters: Vec<Parameter>,
    pub steps: i32,
    weight_decay: f64,
}

/// A parameter with the running means of its gradient and of the gradient's square.
#[derive(Debug)]
pub struct Parameter {
    pub name: String,
    value: Tensor,
    pub mean: Tensor,
    pub square: Tensor,
}

impl Adam {
    pub fn new(store: &VarStore, weight_decay: f64) -> Result<Self, TchError> {
        let mut parameters = Vec::new();
        for (name, value) in store.variables().into_iter().filter(|(_, v)| v.requires_grad()) {
            let (mean, square) = (value.f_zeros_like()?.detach(), value.f_zeros_like()?.detach());
            parameters.push(Parameter { name, value, mean, square });
        }
        parameters.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Self { parameters, steps: 0, weight_decay })
    }

    pub fn zero_grad(&mut self) {
        self.parameters.iter_mut().for_each(|p| p.value.zero_grad());
    }

    /// Divides all gradients by `scale`; whether they are finite.
    pub fn unscale(&mut self, scale: f64) -> Result<bool, TchError> {
        for mut gradient in self.gradients() {
            let _ = gradient.f_div_scalar_(scale)?;
        }
        Ok(self.norm()?.is_finite())
    }

    /// Shortens the gradient of all parameters together to this length, if it is longer.
    pub fn clip(&mut self, norm_max: f64) -> Result<(), TchError> {
        // The small number is that of torch.nn.utils.clip_grad_norm_.
        let factor = norm_max / (self.norm()? + 1e-6);
        if factor < 1.0 {
            for mut gradient in self.gradients() {
                let _ = gradient.f_mul_scalar_(factor)?;
            }
        }
        Ok(())
    }

    /// One step down the gradients.
    pub fn step(&mut self, learning_rate: f64) -> Result<(), TchError> {
        let _guard = tch::no_grad_guard();
        self.steps += 1;
        // As the C++ of libtorch does, to the last bit: a product and a sum are rounded once where it rounds once.
        let corrected = |beta: f64| 1.0 - beta.powf(f64::from(self.steps));
        let (first, second) = (corrected(BETA1), corrected(BETA2).sqrt());
        for p in &mut self.parameters {
            let mut gradient = p.value.grad();
            if !gradient.defined() {
                continue;
            }
            if self.weight_decay != 0.0 {
                gradient = gradient.f_addcmul(&p.value, &p.value.f_full_like(self.weight_decay)?)?;
            }
            let share = gradient.f_full_like(1.0 - BETA1)?;
            let _ = p.mean.f_mul_scalar_(BETA1)?.f_addcmul_(&gradient, &share)?;
            let _ = p.square.f_mul_scalar_(BETA2)?.f_addcmul_(&gradient.f_mul_scalar(1.0 - BETA2)?, &gradient)?;
            let root = p.square.f_sqrt()?.f_div_scalar_(second)?.f_add_scalar_(EPSILON)?;
            let _ = p.value.f_addcdiv_(&p.mean.f_mul_scalar(-learning_rate / first)?, &root)?;
        }
        Ok(())
    }

    fn gradients(&self) -> impl Iterator<Item = Tensor> {
        self.parameters.iter().map(|p| p.value.grad()).filter(Tensor::defined)
    }

    /// Length of the gradient of all parameters together.
    fn norm(&self) -> Result<f64, TchError> {
        let _guard = tch::no_grad_guard();
        let squares: Vec<Tensor> =
            self.gradients().map(|g| g.f_square()?.f_sum(Kind::Float)).collect::<Result<_, _>>()?;
        if squares.is_empty() {
            return Ok(0.0);
        }
        f64::try_from(Tensor::f_stack(&squares, 0)?.f_sum(Kind::Double)?.f_sqrt()?)
    }
}

/// Factor on the loss that keeps small gradients above what half precision can hold (Micikevicius 2018).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LossScale {
    pub factor: f64,
    /// Steps since the last change.
    pub steps: usize,
    /// Steps left out one after the other while the factor was 1 already.
    pub lost: usize,
}

impl LossScale {
    /// More of them will not be the last.
    pub const LOST_MAX: usize = 100;
    const GROWTH_STEPS: usize = 2000;
    const MAX: f64 = 16_777_216.0;

    /// For half precision; 1 and fixed for others.
    pub fn new(is_half: bool) -> Self {
        Self { factor: if is_half { 65_536.0 } else { 1.0 }, steps: 0, lost: 0 }
    }

    /// After a step whose gradients were finite, or one that was left out since they were not.
    pub fn after(&mut self, finite: bool) {
        self.steps += 1;
        if !finite {
            let lost = if self.factor <= 1.0 { self.lost + 1 } else { 0 };
            *self = Self { factor: (self.factor / 2.0).max(1.0), steps: 0, lost };
            return;
        }
        self.lost = 0;
        if self.steps >= Self::GROWTH_STEPS {
            (self.factor, self.steps) = ((self.factor * 2.0).min(Self::MAX), 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::nn::{self, OptimizerConfig};
    use tch::{Device, Reduction};

    fn store() -> (VarStore, Tensor, Tensor) {
        let store = VarStore::new(Device::Cpu);
        let _guard = tch::no_grad_guard();
        let values = |n: i64, at: f64| (Tensor::arange(n, (Kind::Float, Device::Cpu)) * 0.37 + at).sin();
        let mut w = store.root().zeros("w", &[4, 6]);
        let mut b = store.root().zeros("b", &[4]);
        w.copy_(&values(24, 0.1).view([4, 6]));
        b.copy_(&values(4, 0.2));
        (store, w, b)
    }

    /// A least squares problem whose gradients change from step to step.
    fn loss(w: &Tensor, b: &Tensor, step: i64) -> Tensor {
        let xs = (Tensor::arange(30, (Kind::Float, Device::Cpu)) * 0.7 + step).cos().view([5, 6]);
        let ys = (Tensor::arange(20, (Kind::Float, Device::Cpu)) * 1.3).sin().view([5, 4]);
        xs.linear(w, Some(b)).mse_loss(&ys, Reduction::Mean)
    }

    #[test]
    fn every_step_is_that_of_libtorchs_own_adam_to_the_last_bit() {
        for weight_decay in [0.0, 0.05] {
            let (mine, w, b) = store();
            let mut adam = Adam::new(&mine, weight_decay).unwrap();
            let (reference, rw, rb) = store();
            let mut optimiser = nn::Adam { wd: weight_decay, ..nn::Adam::default() }.build(&reference, 1e-2).unwrap();
            for step in 0..60 {
                adam.zero_grad();
                loss(&w, &b, step).backward();
                adam.step(1e-2).unwrap();
                optimiser.backward_step(&loss(&rw, &rb, step));
                assert!(w == rw && b == rb, "step {step}");
            }
            let moved = f64::try_from((w - store().1).abs().max()).unwrap();
            assert!(moved > 0.1, "{moved}");
        }
    }

    #[test]
    fn a_long_gradient_is_cut_to_its_length_and_a_short_one_is_left() {
        let (store, w, b) = store();
        let mut adam = Adam::new(&store, 0.0).unwrap();
        loss(&w, &b, 0).backward();
        let whole = adam.norm().unwrap();
        adam.clip(2.0 * whole).unwrap();
        assert!((adam.norm().unwrap() - whole).abs() < 1e-7);
        adam.clip(0.25 * whole).unwrap();
        assert!((adam.norm().unwrap() - 0.25 * whole).abs() < 1e-5 * whole);
        assert!(adam.unscale(0.25).unwrap());
        assert!((adam.norm().unwrap() - whole).abs() < 1e-5 * whole);
        let _ = w.grad().fill_(f64::INFINITY);
        assert!(!adam.unscale(2.0).unwrap());
    }

    #[test]
    fn the_scale_falls_after_an_overflow_and_rises_after_a_long_time() {
        let mut scale = LossScale::new(true);
        scale.after(false);
        assert_eq!(scale.factor, 32_768.0);
        (0..LossScale::GROWTH_STEPS).for_each(|_| scale.after(true));
        assert_eq!(scale, LossScale { factor: 65_536.0, steps: 0, lost: 0 });
    }
}
