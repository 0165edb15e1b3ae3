//! Networks with torchvision's layers, parameter names and numbers, for weights in safetensors files.
//!
//! `tch::vision` has these too, but its DenseNet takes 224 pixels only and sums where torchvision averages, its
//! EfficientNet pads and normalises as TensorFlow's does (so torchvision's weights give other numbers), and none of
//! them traces for more than one batch size. Tests compare with PyTorch's torchvision. References: He 2016 (ResNet),
//! Huang 2017 (DenseNet), Tan 2019 (EfficientNet). Left out: reading weights (`torch`), training.

use tch::nn::Path;
use tch::{TchError, Tensor};

use super::card::Architecture;
use super::layers::{
    ConvOptions, Forward, conv, dropout, function, global_mean, linear, norm, relu, sequence, stem_pool,
};

/// A network in two parts: one row of features for each image, and the last layer upon them.
pub(super) struct Parts {
    pub(super) features: Forward,
    pub(super) head: Forward,
}

/// The image's channels (torchvision's networks have three) and the outputs (logits).
#[derive(Debug, Clone, Copy)]
pub struct Width {
    pub channels: i64,
    pub columns: i64,
}

/// What is left out at random in training, and only there.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Drop {
    /// Share of the features before the last layer; torchvision's where not given.
    pub features: Option<f64>,
    /// Drop-connect (stochastic depth): share of the images for which the last residual block is passed over; of earlier
    /// blocks less, in proportion. EfficientNet only, where torchvision has 0.2.
    pub connect: f64,
}

/// Builds the network below `p`.
pub fn build(p: &Path, architecture: Architecture, width: Width, drop: Drop) -> Result<Forward, TchError> {
    let Parts { features, head } = built(p, architecture, width, drop)?;
    Ok(sequence(vec![features, head]))
}

/// As [`build`], with the features apart.
pub(super) fn parts(p: &Path, architecture: Architecture, width: Width) -> Result<Parts, TchError> {
    built(p, architecture, width, Drop::default())
}

fn built(p: &Path, architecture: Architecture, width: Width, drop: Drop) -> Result<Parts, TchError> {
    let Parts { features, head } = match architecture {
        Architecture::Resnet18 => resnet(p, &[2, 2, 2, 2], basic_block, 1, width),
        Architecture::Resnet34 => resnet(p, &[3, 4, 6, 3], basic_block, 1, width),
        Architecture::Resnet50 => resnet(p, &[3, 4, 6, 3], bottleneck, 4, width),
        Architecture::Densenet121 => densenet(p, &[6, 12, 24, 16], 64, 32, width),
        Architecture::EfficientnetB0 => efficientnet(p, 1.0, 1.0, drop.connect, width),
        Architecture::EfficientnetB2 => efficientnet(p, 1.1, 1.2, drop.connect, width),
    }?;
    let share = drop.features.unwrap_or(match architecture {
        Architecture::EfficientnetB0 => 0.2,
        Architecture::EfficientnetB2 => 0.3,
        _ => 0.0,
    });
    Ok(Parts { features, head: if share > 0.0 { sequence(vec![dropout(share), head]) } else { head } })
}

/// Where the last layer's parameters are.
pub(super) fn head_name(architecture: Architecture) -> &'static str {
    match architecture {
        Architecture::Resnet18 | Architecture::Resnet34 | Architecture::Resnet50 => "fc",
        Architecture::Densenet121 => "classifier",
        Architecture::EfficientnetB0 | Architecture::EfficientnetB2 => "classifier.1",
    }
}

type Block = fn(&Path, i64, i64, i64) -> Result<Forward, TchError>;

fn options(stride: i64, padding: i64) -> ConvOptions {
    ConvOptions { stride, padding, ..ConvOptions::default() }
}

fn resnet(p: &Path, counts: &[usize], block: Block, expansion: i64, width: Width) -> Result<Parts, TchError> {
    let stem = conv(&(p / "conv1"), width.channels, 64, 7, options(2, 3))?;
    let mut parts = vec![stem, norm(&(p / "bn1"), 64)?, relu(), stem_pool()];
    let mut c_in = 64;
    for (i, count) in counts.iter().enumerate() {
        let c_mid = 64 << i;
        for j in 0..*count {
            let stride = if i > 0 && j == 0 { 2 } else { 1 };
            parts.push(block(&(p / format!("layer{}", i + 1) / j), c_in, c_mid, stride)?);
            c_in = c_mid * expansion;
        }
    }
    parts.push(global_mean());
    Ok(Parts { features: sequence(parts), head: linear(&(p / "fc"), c_in, width.columns)? })
}

fn basic_block(p: &Path, c_in: i64, width: i64, stride: i64) -> Result<Forward, TchError> {
    let body = sequence(vec![
        conv(&(p / "conv1"), c_in, width, 3, options(stride, 1))?,
        norm(&(p / "bn1"), width)?,
        relu(),
        conv(&(p / "conv2"), width, width, 3, options(1, 1))?,
        norm(&(p / "bn2"), width)?,
    ]);
    residual(p, body, c_in, width, stride)
}

fn bottleneck(p: &Path, c_in: i64, width: i64, stride: i64) -> Result<Forward, TchError> {
    let body = sequence(vec![
        conv(&(p / "conv1"), c_in, width, 1, options(1, 0))?,
        norm(&(p / "bn1"), width)?,
        relu(),
        conv(&(p / "conv2"), width, width, 3, options(stride, 1))?,
        norm(&(p / "bn2"), width)?,
        relu(),
        conv(&(p / "conv3"), width, 4 * width, 1, options(1, 0))?,
        norm(&(p / "bn3"), 4 * width)?,
    ]);
    residual(p, body, c_in, 4 * width, stride)
}

fn residual(p: &Path, body: Forward, c_in: i64, c_out: i64, stride: i64) -> Result<Forward, TchError> {
    let p = p / "downsample";
    let shortcut = if stride != 1 || c_in != c_out {
        sequence(vec![conv(&(&p / 0), c_in, c_out, 1, options(stride, 0))?, norm(&(&p / 1), c_out)?])
    } else {
        sequence(Vec::new())
    };
    Ok(Box::new(move |xs, train| shortcut(xs, train)?.f_add(&body(xs, train)?)?.f_relu()))
}

fn densenet(p: &Path, counts: &[usize], stem: i64, growth: i64, ends: Width) -> Result<Parts, TchError> {
    let f = p / "features";
    let first = conv(&(&f / "conv0"), ends.channels, stem, 7, options(2, 3))?;
    let mut parts = vec![first, norm(&(&f / "norm0"), stem)?, relu(), stem_pool()];
    let mut width = stem;
    for (i, count) in counts.iter().enumerate() {
        let block = &f / format!("denseblock{}", i + 1);
        for j in 0..*count {
            parts.push(dense_layer(&(&block / format!("denselayer{}", j + 1)), width, growth)?);
            width += growth;
        }
        if i + 1 < counts.len() {
            let t = &f / format!("transition{}", i + 1);
            parts.push(norm(&(&t / "norm"), width)?);
            parts.push(relu());
            parts.push(conv(&(&t / "conv"), width, width / 2, 1, options(1, 0))?);
            parts.push(function(|xs| xs.f_avg_pool2d([2, 2], [2, 2], [0, 0], false, true, None)));
            width /= 2;
        }
    }
    parts.push(norm(&(&f / "norm5"), width)?);
    parts.push(relu());
    parts.push(global_mean());
    Ok(Parts { features: sequence(parts), head: linear(&(p / "classifier"), width, ends.columns)? })
}

fn dense_layer(p: &Path, width: i64, growth: i64) -> Result<Forward, TchError> {
    let inner = 4 * growth;
    let body = sequence(vec![
        norm(&(p / "norm1"), width)?,
        relu(),
        conv(&(p / "conv1"), width, inner, 1, options(1, 0))?,
        norm(&(p / "norm2"), inner)?,
        relu(),
        conv(&(p / "conv2"), inner, growth, 3, options(1, 1))?,
    ]);
    Ok(Box::new(move |xs, train| Tensor::f_cat(&[xs, &body(xs, train)?], 1)))
}

/// A stage of EfficientNet: expansion, kernel, stride, input and output channels and layers at scale 1.
struct Stage(i64, i64, i64, i64, i64, usize);

const STAGES: [Stage; 7] = [
    Stage(1, 3, 1, 32, 16, 1),
    Stage(6, 3, 2, 16, 24, 2),
    Stage(6, 5, 2, 24, 40, 2),
    Stage(6, 3, 2, 40, 80, 3),
    Stage(6, 5, 1, 80, 112, 3),
    Stage(6, 5, 2, 112, 192, 4),
    Stage(6, 3, 1, 192, 320, 1),
];

fn efficientnet(p: &Path, width: f64, depth: f64, connect: f64, ends: Width) -> Result<Parts, TchError> {
    let f = p / "features";
    let count = |layers: usize| (layers as f64 * depth).ceil() as usize;
    let blocks: usize = STAGES.iter().map(|stage| count(stage.5)).sum();
    let mut block = 0;
    let scaled = |channels: i64| divisible(channels as f64 * width);
    let mut parts = vec![conv_norm(&(&f / 0), ends.channels, scaled(32), 3, 2, 1, true)?];
    for (i, Stage(expansion, kernel, stride, from, to, layers)) in STAGES.iter().enumerate() {
        let (from, to) = (scaled(*from), scaled(*to));
        for j in 0..count(*layers) {
            let (c_in, stride) = if j == 0 { (from, *stride) } else { (to, 1) };
            let body = mb_conv(&(&f / (i + 1) / j / "block"), *expansion, *kernel, stride, c_in, to)?;
            let passed_over = connect * block as f64 / blocks as f64;
            parts.push(if stride == 1 && c_in == to { around(body, passed_over) } else { body });
            block += 1;
        }
    }
    let last = scaled(320);
    parts.push(conv_norm(&(&f / (STAGES.len() + 1)), last, 4 * last, 1, 1, 1, true)?);
    parts.push(global_mean());
    Ok(Parts { features: sequence(parts), head: linear(&(p / "classifier" / 1), 4 * last, ends.columns)? })
}

fn conv_norm(
    p: &Path,
    c_in: i64,
    c_out: i64,
    kernel: i64,
    stride: i64,
    groups: i64,
    act: bool,
) -> Result<Forward, TchError> {
    let options = ConvOptions { stride, padding: (kernel - 1) / 2, groups, bias: false };
    let mut parts = vec![conv(&(p / 0), c_in, c_out, kernel, options)?, norm(&(p / 1), c_out)?];
    if act {
        parts.push(function(Tensor::f_silu));
    }
    Ok(sequence(parts))
}

fn mb_conv(p: &Path, expansion: i64, kernel: i64, stride: i64, c_in: i64, c_out: i64) -> Result<Forward, TchError> {
    let wide = divisible((c_in * expansion) as f64);
    let squeezed = (c_in / 4).max(1);
    let with_bias = ConvOptions { bias: true, ..ConvOptions::default() };
    let mut parts = Vec::new();
    let mut at = 0;
    if wide != c_in {
        parts.push(conv_norm(&(p / 0), c_in, wide, 1, 1, 1, true)?);
        at = 1;
    }
    parts.push(conv_norm(&(p / at), wide, wide, kernel, stride, wide, true)?);
    let squeeze = p / (at + 1);
    let excitation = sequence(vec![
        function(|xs| xs.f_adaptive_avg_pool2d([1, 1])),
        conv(&(&squeeze / "fc1"), wide, squeezed, 1, with_bias)?,
        function(Tensor::f_silu),
        conv(&(&squeeze / "fc2"), squeezed, wide, 1, with_bias)?,
        function(Tensor::f_sigmoid),
    ]);
    parts.push(Box::new(move |xs, train| excitation(xs, train)?.f_mul(xs)));
    parts.push(conv_norm(&(p / (at + 2)), wide, c_out, 1, 1, 1, false)?);
    Ok(sequence(parts))
}

/// The input beside what the block makes of it; in training the block is left out for a share of the images.
fn around(body: Forward, passed_over: f64) -> Forward {
    Box::new(move |xs, train| {
        let mut change = body(xs, train)?;
        if train && passed_over > 0.0 {
            let kept = 1.0 - passed_over;
            let mask = xs.f_new_empty([xs.size()[0], 1, 1, 1], (xs.kind(), xs.device()))?.f_bernoulli_float_(kept)?;
            change = change.f_mul(&mask.f_div_scalar(kept)?)?;
        }
        xs.f_add(&change)
    })
}

/// To a multiple of 8, never more than a tenth less.
fn divisible(v: f64) -> i64 {
    let rounded = (((v + 4.0) / 8.0).floor() as i64 * 8).max(8);
    if (rounded as f64) < 0.9 * v { rounded + 8 } else { rounded }
}

#[cfg(test)]
#[path = "nets_tests.rs"]
mod tests;
