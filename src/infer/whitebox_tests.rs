//! Tests of `whitebox`: gradients against differences of values, and what a network without features says.

use std::path::Path;

use super::*;
use crate::domain::Contract;
use crate::infer::manifest::fixtures::{clinical_with, race_with};
use crate::infer::reference::scripted;

/// Features that are no straight function of the image, and outputs on them.
const BODY: &str = "        kernel = torch.ones(1, images.shape[1], 3, 3) / 9.0\n\
    \x20       smooth = torch.nn.functional.conv2d(images, kernel)\n\
    \x20       features = torch.tanh(torch.nn.functional.adaptive_avg_pool2d(smooth, [2, 3]).flatten(1))\n\
    \x20       weights = torch.tensor([[1.0, -2.0, 0.5, 0.3, 0.1, -1.0], [0.2, 0.4, -0.6, 1.0, -1.5, 0.7]])\n\
    \x20       return torch.nn.functional.linear(features, weights)";

fn package(folder: &Path, race: bool, body: &str, change: impl Fn(String) -> String) -> Package {
    let weights = folder.join("network.pt");
    std::fs::write(&weights, scripted(body)).unwrap();
    if race { race_with(folder, &weights, change) } else { clinical_with(folder, &weights, change) }
}

fn plane() -> Plane {
    Plane::new(8, (0..64).map(|at| ((at * 37 + 11) % 64) as f32 / 64.0).collect()).unwrap()
}

#[test]
fn gradients_are_what_values_change_by() {
    let as_softmax = |card: String| card.replace("\"softmax\"", "\"logits-softmax\"");
    let channels = |card: String| as_softmax(card).replace("\"minmax-unit\"", "\"imagenet-rgb\"");
    for (race, coloured) in [(false, false), (true, false), (true, true)] {
        let folder = tempfile::tempdir().unwrap();
        let package =
            package(folder.path(), race, BODY, |card| if coloured { channels(card) } else { as_softmax(card) });
        let network = WhiteBox::load(&package, Device::Cpu).unwrap();
        assert_eq!(network.features(&[plane(), plane()]).unwrap()[1].len(), 6);
        let head = [0.3, -0.2, 0.9, 0.1, -0.5, 0.4];
        for readout in [Readout::Output(0), Readout::Output(1), Readout::Head(&head)] {
            let gradient = network.gradients(&[plane()], &[readout]).unwrap().remove(0);
            for at in [0, 9, 27, 63] {
                let moved = |by: f32| {
                    let mut values = plane().values().to_vec();
                    values[at] += by;
                    Plane::new(8, values).unwrap()
                };
                let values = network.values(&[moved(0.01), moved(-0.01)], &[readout]).unwrap().remove(0);
                let slope = (values[0] - values[1]) / 0.02;
                let found = f64::from(gradient.values()[at]);
                assert!((found - slope).abs() < 1e-3 + 0.02 * slope.abs(), "{race} {readout:?} {at}: {found} {slope}");
            }
        }
    }
}

#[test]
fn the_gradient_of_several_planes_is_their_mean() {
    let folder = tempfile::tempdir().unwrap();
    let network = WhiteBox::load(&package(folder.path(), false, BODY, |card| card), Device::Cpu).unwrap();
    let other = Plane::new(8, plane().values().iter().map(|v| 1.0 - v).collect()).unwrap();
    let one = |plane: &Plane| network.gradients(std::slice::from_ref(plane), &[Readout::Output(0)]).unwrap().remove(0);
    let both = network.gradients(&[plane(), other.clone()], &[Readout::Output(0)]).unwrap().remove(0);
    for ((a, b), mean) in one(&plane()).values().iter().zip(one(&other).values()).zip(both.values()) {
        assert!(((a + b) / 2.0 - mean).abs() < 1e-6);
    }
}

/// A network that draws its own noise tells passes apart.
#[test]
fn readouts_share_one_pass() {
    let body = "        noisy = images * torch.rand_like(images)\n\
        \x20       return torch.nn.functional.conv2d(noisy, torch.ones(2, 1, 8, 8) / 64.0).flatten(1)";
    let folder = tempfile::tempdir().unwrap();
    let network = WhiteBox::load(&package(folder.path(), false, body, |card| card), Device::Cpu).unwrap();
    let gradients = network.gradients(&[plane(), plane()], &[Readout::Output(0); 3]).unwrap();
    assert!(gradients.iter().all(|gradient| *gradient == gradients[0]));
    assert_ne!(network.gradients(&[plane(), plane()], &[Readout::Output(0)]).unwrap(), gradients[..1]);
}

/// A group's logit is against all others, whatever the network's outputs are.
#[test]
fn logits_are_the_same_for_every_kind_of_output() {
    let logits = Tensor::from_slice(&[0.3f32, -1.2, 0.8]).view([1, 3]);
    let p = logits.softmax(1, Kind::Float);
    let expected = {
        let p = f64::try_from(p.select(1, 2)).unwrap();
        (p / (1.0 - p)).ln()
    };
    for (outputs, activation) in [
        (logits.shallow_clone(), Activation::LogitsSoftmax),
        (logits.log_softmax(1, Kind::Float), Activation::LogSoftmax),
        (p, Activation::Softmax),
    ] {
        let found = logit(&outputs, &[0, 1, 2], 2, activation, Purpose::Race).unwrap();
        assert!((f64::try_from(found).unwrap() - expected).abs() < 1e-5, "{activation:?}");
    }
    let sigmoid = logits.sigmoid();
    for (outputs, activation) in [(&logits, Activation::LogitsSigmoid), (&sigmoid, Activation::Sigmoid)] {
        let found = logit(outputs, &[2, 0], 1, activation, Purpose::Clinical).unwrap();
        assert!((f64::try_from(found).unwrap() - 0.3).abs() < 1e-5, "{activation:?}");
    }
}

#[test]
fn a_network_without_features_says_so_and_still_has_gradients() {
    let body = "        return torch.nn.functional.conv2d(images, torch.ones(2, 1, 8, 8) / 64.0).flatten(1)";
    let folder = tempfile::tempdir().unwrap();
    let network = WhiteBox::load(&package(folder.path(), false, body, |card| card), Device::Cpu).unwrap();
    assert!(matches!(network.features(&[plane()]), Err(ExplainError::Unavailable(why)) if why.contains("no features")));
    let gradient = network.gradients(&[plane()], &[Readout::Output(1)]).unwrap().remove(0);
    assert!(gradient.values().iter().all(|v| (v - 1.0 / 64.0).abs() < 1e-6));
    assert!(network.values(&[plane()], &[Readout::Output(2)]).is_err());
    let small = Plane::new(4, vec![0.0; 16]).unwrap();
    assert_eq!(network.values(&[small], &[Readout::Output(0)]), Err(ExplainError::Failed(InferError::WrongContract)));
    let contract = Contract::preset("minmax-unit", 8).unwrap();
    assert_eq!(network.contract().digest(), contract.digest());
}
