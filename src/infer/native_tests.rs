//! Tests of `native`: weights of another network are found out, start weights are taken one by one.

use super::*;
use crate::infer::layers::{ConvOptions, conv};

fn width(columns: i64) -> Width {
    Width { channels: 3, columns }
}

fn resnet18(p: &tch::nn::Path, columns: i64) -> Parts {
    nets::parts(p, Architecture::Resnet18, width(columns)).unwrap()
}

#[test]
fn weights_of_another_network_are_refused_by_name_and_shape() {
    let dir = tempfile::tempdir().unwrap();
    let save = |name: &str, fill: &dyn Fn(&tch::nn::Path)| {
        let store = VarStore::new(Device::Cpu);
        fill(&store.root());
        let path = dir.path().join(name);
        store.save(&path).unwrap();
        std::fs::read(path).unwrap()
    };
    let load = |bytes: &[u8]| load_native(bytes, Architecture::Resnet18, width(2)).err().unwrap_or_default();
    let resnet = |columns: i64| move |p: &tch::nn::Path| drop(resnet18(p, columns));
    assert_eq!(load(&save("right.safetensors", &resnet(2))), "");
    let three = load(&save("three.safetensors", &resnet(3)));
    assert!(three.contains("fc.") && three.contains("a resnet18 with 2 outputs for 3 channels has"), "{three}");
    let other = load(&save("other.safetensors", &|p| drop(nets::parts(p, Architecture::Resnet34, width(2)).unwrap())));
    assert!(other.contains("the file has parameters that resnet18 does not: layer1.2.bn1.bias, "), "{other}");
    let small = load(&save("small.safetensors", &|p| drop(conv(&(p / "conv1"), 3, 64, 7, ConvOptions::default()))));
    assert!(small.contains("the file lacks parameters of resnet18") && small.contains("bn1.bias, "), "{small}");
    let counted = save("counted.safetensors", &|p| {
        resnet(2)(p);
        let _ = p.sub("bn1").f_zeros_no_train("num_batches_tracked", &[1]).unwrap();
    });
    assert_eq!(load(&counted), "");
    // As PyTorch writes it from `DataParallel` around a network whose last layer has a LogSoftmax behind it.
    let wrapped = |head: &str| {
        save("wrapped.safetensors", &|p| {
            let network = VarStore::new(Device::Cpu);
            resnet(2)(&network.root());
            for (name, tensor) in network.variables() {
                let name = format!("module.{}", name.replace("fc.", head));
                let (folder, leaf) = name.rsplit_once('.').unwrap();
                let path =
                    folder.split('.').fold(p.sub("module"), |p, part| if part == "module" { p } else { p / part });
                let _ = path.var_copy(leaf, &tensor);
            }
        })
    };
    assert_eq!(load(&wrapped("fc.0.")), "");
    assert!(load(&wrapped("fc.1.")).contains("lacks parameters of resnet18"), "{}", load(&wrapped("fc.1.")));
    let broken = save("broken.safetensors", &|p| {
        resnet(2)(p);
        let _guard = tch::no_grad_guard();
        let _ = p.sub("fc").get("bias").unwrap().fill_(f64::NAN);
    });
    assert_eq!(load(&broken), "fc.bias has values that are not finite");
    assert!(load(b"no file").starts_with("not a safetensors file: "));
}

#[test]
fn start_weights_are_taken_whole_and_only_a_head_for_other_classes_stays_fresh() {
    let dir = tempfile::tempdir().unwrap();
    let file = |columns: i64| {
        let store = VarStore::new(Device::Cpu);
        drop(resnet18(&store.root(), columns));
        let path = dir.path().join("start.safetensors");
        store.save(&path).unwrap();
        (store, std::fs::read(path).unwrap())
    };
    let start = |bytes: &[u8], columns: i64| {
        let store = VarStore::new(Device::Cpu);
        drop(resnet18(&store.root(), columns));
        let fresh = store.variables()["fc.weight"].copy();
        let found = load_start_weights(&store, bytes, Architecture::Resnet18, width(columns));
        (store, fresh, found)
    };
    let (source, bytes) = file(1000);
    let (store, fresh, found) = start(&bytes, 3);
    assert_eq!(found, Ok(StartWeights { taken: 100, fresh_head: true }));
    assert_eq!(store.variables()["fc.weight"], fresh);
    for (name, value) in store.variables().into_iter().filter(|(name, _)| !name.starts_with("fc.")) {
        assert_eq!(value, source.variables()[&name], "{name}");
    }
    let (source, bytes) = file(3);
    let (store, _, found) = start(&bytes, 3);
    assert_eq!(found, Ok(StartWeights { taken: 102, fresh_head: false }));
    assert_eq!(store.variables()["fc.weight"], source.variables()["fc.weight"]);

    let other = VarStore::new(Device::Cpu);
    drop(nets::parts(&other.root(), Architecture::Resnet34, width(1000)).unwrap());
    let refused = load_start_weights(&other, &bytes, Architecture::Resnet34, width(1000)).unwrap_err();
    assert!(refused.contains("the file lacks parameters of resnet34"), "{refused}");
}
