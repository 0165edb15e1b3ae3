//! Layers as fallible functions: the bricks of the networks in `nets` and of `train`'s own.
//!
//! tch's own layers and `tch::vision` panic on a shape that does not fit, and fix the batch size when traced
//! (their `flat_view` reads it as a constant). These return errors and trace for any batch size. Parameter names
//! and starting values are torchvision's. Left out: whole networks.

use tch::nn::Path;
use tch::nn::init::{FanInOut, Init, NonLinearity, NormalOrUniform};
use tch::{TchError, Tensor};

/// A function from a tensor to a tensor; the flag says whether it is being trained (batch statistics, dropout).
pub type Forward = Box<dyn Fn(&Tensor, bool) -> Result<Tensor, TchError> + Send>;

/// How a convolution moves over its input.
#[derive(Debug, Clone, Copy)]
pub struct ConvOptions {
    pub stride: i64,
    pub padding: i64,
    pub groups: i64,
    pub bias: bool,
}

impl Default for ConvOptions {
    fn default() -> Self {
        Self { stride: 1, padding: 0, groups: 1, bias: false }
    }
}

/// A square convolution with weights from He et al. 2015 (normal, fan out).
pub fn conv(p: &Path, c_in: i64, c_out: i64, kernel: i64, options: ConvOptions) -> Result<Forward, TchError> {
    let init =
        Init::Kaiming { dist: NormalOrUniform::Normal, fan: FanInOut::FanOut, non_linearity: NonLinearity::ReLU };
    let ws = p.f_var("weight", &[c_out, c_in / options.groups, kernel, kernel], init)?;
    let bs = if options.bias { Some(p.f_var("bias", &[c_out], Init::Const(0.0))?) } else { None };
    let (stride, padding, groups) = (options.stride, options.padding, options.groups);
    Ok(Box::new(move |xs, _| {
        let (ws, bs) = (as_input(&ws, xs)?, bs.as_ref().map(|bs| as_input(bs, xs)).transpose()?);
        xs.f_conv2d(&ws, bs.as_ref(), [stride, stride], [padding, padding], [1, 1], groups)
    }))
}

/// Batch normalisation over the channels of an image batch.
pub fn norm(p: &Path, channels: i64) -> Result<Forward, TchError> {
    let ws = p.f_var("weight", &[channels], Init::Const(1.0))?;
    let bs = p.f_var("bias", &[channels], Init::Const(0.0))?;
    let mean = p.f_zeros_no_train("running_mean", &[channels])?;
    let var = p.f_ones_no_train("running_var", &[channels])?;
    Ok(Box::new(move |xs, train| {
        xs.f_batch_norm(Some(&ws), Some(&bs), Some(&mean), Some(&var), train, 0.1, 1e-5, true)
    }))
}

/// A fully connected layer.
pub fn linear(p: &Path, c_in: i64, c_out: i64) -> Result<Forward, TchError> {
    let bound = 1.0 / (c_in as f64).sqrt();
    let ws = p.f_var("weight", &[c_out, c_in], Init::Uniform { lo: -bound, up: bound })?;
    let bs = p.f_var("bias", &[c_out], Init::Const(0.0))?;
    Ok(Box::new(move |xs, _| xs.f_linear(&as_input(&ws, xs)?, Some(&as_input(&bs, xs)?))))
}

/// Parameters stay in fp32 where a network is trained in a reduced precision: its layers compute in that of their input.
fn as_input(parameter: &Tensor, xs: &Tensor) -> Result<Tensor, TchError> {
    if parameter.kind() == xs.kind() { Ok(parameter.shallow_clone()) } else { parameter.f_to_kind(xs.kind()) }
}

/// One after the other.
pub fn sequence(parts: Vec<Forward>) -> Forward {
    Box::new(move |xs, train| {
        let mut ys = xs.shallow_clone();
        for part in &parts {
            ys = part(&ys, train)?;
        }
        Ok(ys)
    })
}

/// A layer without parameters.
pub fn function(f: impl Fn(&Tensor) -> Result<Tensor, TchError> + Send + 'static) -> Forward {
    Box::new(move |xs, _| f(xs))
}

pub fn relu() -> Forward {
    function(Tensor::f_relu)
}

/// Mean over the image, then one row per image.
pub fn global_mean() -> Forward {
    function(|xs| xs.f_adaptive_avg_pool2d([1, 1])?.f_flatten(1, -1))
}

/// Dropout, active in training only.
pub fn dropout(p: f64) -> Forward {
    Box::new(move |xs, train| xs.f_dropout(p, train))
}

/// 3×3 max pooling with stride 2, as in the stem of ResNet and DenseNet.
pub(super) fn stem_pool() -> Forward {
    function(|xs| xs.f_max_pool2d([3, 3], [2, 2], [1, 1], [1, 1], false))
}

/// A small convolutional network with two outputs for images of one channel, for tests.
#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) fn small_network(p: &Path) -> Forward {
    sequence(vec![
        conv(&(p / 0), 1, 16, 3, ConvOptions { padding: 1, ..ConvOptions::default() }).unwrap(),
        norm(&(p / 1), 16).unwrap(),
        relu(),
        global_mean(),
        linear(&(p / 2), 16, 2).unwrap(),
    ])
}
