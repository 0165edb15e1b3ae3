//! Networks with torchvision's layers, parameter names and numbers, for weights in safetensors files.
//!
//! `tch::vision` has these too, but its DenseNet takes 224 pixels only and sums where torchvision averages, its
//! EfficientNet pads and normalises as TensorFlow's does (so torchvision's weights give other numbers), and none of
//! them traces for more than one batch size. Tests compare with `tch::vision` where the two must agree. References:
//! He 2016 (ResNet), Huang 2017 (DenseNet), Tan 2019 (EfficientNet). Left out: reading weights (`torch`), training.

use tch::nn::Path;
use tch::{TchError, Tensor};

use super::card::Architecture;
use super::layers::{
    ConvOptions, Forward, conv, dropout, function, global_mean, linear, norm, relu, sequence, stem_pool,
};

/// Builds the network below `p` with `columns` outputs (logits) for images of three channels.
pub fn build(p: &Path, architecture: Architecture, columns: i64) -> Result<Forward, TchError> {
    match architecture {
        Architecture::Resnet18 => resnet(p, &[2, 2, 2, 2], basic_block, 1, columns),
        Architecture::Resnet34 => resnet(p, &[3, 4, 6, 3], basic_block, 1, columns),
        Architecture::Resnet50 => resnet(p, &[3, 4, 6, 3], bottleneck, 4, columns),
        Architecture::Densenet121 => densenet(p, &[6, 12, 24, 16], 64, 32, columns),
        Architecture::EfficientnetB0 => efficientnet(p, 1.0, 1.0, 0.2, columns),
        Architecture::EfficientnetB2 => efficientnet(p, 1.1, 1.2, 0.3, columns),
    }
}

type Block = fn(&Path, i64, i64, i64) -> Result<Forward, TchError>;

fn options(stride: i64, padding: i64) -> ConvOptions {
    ConvOptions { stride, padding, ..ConvOptions::default() }
}

fn resnet(p: &Path, counts: &[usize], block: Block, expansion: i64, columns: i64) -> Result<Forward, TchError> {
    let mut parts = vec![conv(&(p / "conv1"), 3, 64, 7, options(2, 3))?, norm(&(p / "bn1"), 64)?, relu(), stem_pool()];
    let mut c_in = 64;
    for (i, count) in counts.iter().enumerate() {
        let width = 64 << i;
        for j in 0..*count {
            let stride = if i > 0 && j == 0 { 2 } else { 1 };
            parts.push(block(&(p / format!("layer{}", i + 1) / j), c_in, width, stride)?);
            c_in = width * expansion;
        }
    }
    parts.push(global_mean());
    parts.push(linear(&(p / "fc"), c_in, columns)?);
    Ok(sequence(parts))
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

fn densenet(p: &Path, counts: &[usize], stem: i64, growth: i64, columns: i64) -> Result<Forward, TchError> {
    let f = p / "features";
    let mut parts =
        vec![conv(&(&f / "conv0"), 3, stem, 7, options(2, 3))?, norm(&(&f / "norm0"), stem)?, relu(), stem_pool()];
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
    parts.push(linear(&(p / "classifier"), width, columns)?);
    Ok(sequence(parts))
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

fn efficientnet(p: &Path, width: f64, depth: f64, drop: f64, columns: i64) -> Result<Forward, TchError> {
    let f = p / "features";
    let scaled = |channels: i64| divisible(channels as f64 * width);
    let mut parts = vec![conv_norm(&(&f / 0), 3, scaled(32), 3, 2, 1, true)?];
    for (i, Stage(expansion, kernel, stride, from, to, layers)) in STAGES.iter().enumerate() {
        let (from, to) = (scaled(*from), scaled(*to));
        for j in 0..(*layers as f64 * depth).ceil() as usize {
            let (c_in, stride) = if j == 0 { (from, *stride) } else { (to, 1) };
            parts.push(mb_conv(&(&f / (i + 1) / j / "block"), *expansion, *kernel, stride, c_in, to)?);
        }
    }
    let last = scaled(320);
    parts.push(conv_norm(&(&f / (STAGES.len() + 1)), last, 4 * last, 1, 1, 1, true)?);
    parts.push(global_mean());
    parts.push(dropout(drop));
    parts.push(linear(&(p / "classifier" / 1), 4 * last, columns)?);
    Ok(sequence(parts))
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
    let body = sequence(parts);
    if stride == 1 && c_in == c_out {
        return Ok(Box::new(move |xs, train| xs.f_add(&body(xs, train)?)));
    }
    Ok(body)
}

/// To a multiple of 8, never more than a tenth less.
fn divisible(v: f64) -> i64 {
    let rounded = (((v + 4.0) / 8.0).floor() as i64 * 8).max(8);
    if (rounded as f64) < 0.9 * v { rounded + 8 } else { rounded }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::nn::{ModuleT, VarStore};
    use tch::{Device, Kind, vision};

    /// How a parameter of `tch::vision` must differ from ours for both to compute the same.
    type Amend = fn(&str, Tensor) -> Tensor;

    fn as_it_is(_: &str, values: Tensor) -> Tensor {
        values
    }

    /// tch's DenseNet sums over 2×2 and 7×7 pixels; smaller weights beside the sums make them means.
    fn sums_to_means(name: &str, values: Tensor) -> Tensor {
        match name {
            _ if name.contains("transition") && name.ends_with("conv.weight") => values / 4.0,
            "classifier.weight" => values / 49.0,
            _ => values,
        }
    }

    /// tch's EfficientNet has an epsilon of 1e-3 where torchvision's has 1e-5.
    fn larger_epsilon(name: &str, values: Tensor) -> Tensor {
        if name.ends_with("running_var") { values + (1e-5 - 1e-3) } else { values }
    }

    /// Gives two stores of equal names the same random values, with running statistics that matter.
    fn share_values(ours: &VarStore, theirs: &VarStore, amend: Amend) {
        let (ours, theirs) = (ours.variables(), theirs.variables());
        let sorted = |keys: Vec<String>| {
            let mut keys = keys;
            keys.sort();
            keys
        };
        let names = sorted(ours.keys().cloned().collect());
        assert_eq!(names, sorted(theirs.keys().cloned().collect()), "parameter names");
        for name in names {
            let (mut a, mut b) = (ours[&name].shallow_clone(), theirs[&name].shallow_clone());
            assert_eq!(a.size(), b.size(), "{name}");
            let values = match name.rsplit('.').next().unwrap() {
                "running_var" => a.rand_like() + 0.5,
                "running_mean" | "bias" => a.rand_like() - 0.5,
                // He's scale keeps the signal of deep networks within range.
                _ if a.dim() > 1 => a.randn_like() * (2.0 / (a.numel() as f64 / a.size()[0] as f64)).sqrt(),
                _ => a.rand_like() * 0.4 + 0.6,
            };
            a.copy_(&values);
            b.copy_(&amend(&name, values));
        }
    }

    fn check(architecture: Architecture, theirs: impl Fn(&Path) -> Box<dyn ModuleT>, size: i64, amend: Amend) {
        let _guard = tch::no_grad_guard();
        tch::manual_seed(7);
        let (a, b) = (VarStore::new(Device::Cpu), VarStore::new(Device::Cpu));
        let ours = build(&a.root(), architecture, 5).unwrap();
        let theirs = theirs(&b.root());
        share_values(&a, &b, amend);
        let xs = Tensor::randn([2, 3, size, size], (Kind::Float, Device::Cpu));
        let (ys, zs) = (ours(&xs, false).unwrap(), theirs.forward_t(&xs, false));
        assert_eq!(ys.size(), [2, 5]);
        let scale = f64::try_from(zs.abs().max()).unwrap().max(1e-3);
        let difference = f64::try_from((&ys - &zs).abs().max()).unwrap() / scale;
        assert!(difference < 1e-4, "{architecture:?}: relative difference {difference}");
    }

    #[test]
    fn resnet_and_densenet_agree_with_an_independent_implementation() {
        check(Architecture::Resnet18, |p| Box::new(vision::resnet::resnet18(p, 5)), 64, as_it_is);
        check(Architecture::Resnet34, |p| Box::new(vision::resnet::resnet34(p, 5)), 64, as_it_is);
        check(Architecture::Resnet50, |p| Box::new(vision::resnet::resnet50(p, 5)), 64, as_it_is);
        check(Architecture::Densenet121, |p| Box::new(vision::densenet::densenet121(p, 5)), 224, sums_to_means);
    }

    /// At 65 pixels every stride meets an odd size, where TensorFlow's padding is torchvision's too.
    #[test]
    fn efficientnet_agrees_with_an_independent_implementation_where_paddings_coincide() {
        check(Architecture::EfficientnetB0, |p| Box::new(vision::efficientnet::b0(p, 5)), 65, larger_epsilon);
        check(Architecture::EfficientnetB2, |p| Box::new(vision::efficientnet::b2(p, 5)), 65, larger_epsilon);
    }
}
