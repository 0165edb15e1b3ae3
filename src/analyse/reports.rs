//! A study's report, as each SOP class has it. Left out: what it says (`report`), maps (`explain`).

use super::*;

impl Analyser {
    /// The report in the three SOP classes that a destination may accept, the preferred first, each under its own
    /// fresh SOP Instance UID in one fresh series. `sources` is that of [`Conclusion::Assessed`].
    pub fn reports(
        &self,
        assessment: &Assessment,
        sources: &BTreeMap<String, Vec<Uid>>,
        images: &[&InstanceHeader],
        context: &ReportContext,
    ) -> anyhow::Result<Vec<Report>> {
        let assessment = self.released(assessment, context.disclosure);
        let images = in_slice_order(images);
        let reduced = |package: &Package| {
            let precision = self.precision(package).filter(|precision| *precision != Precision::Fp32)?;
            Some(format!("precision={} of {}", precision.as_str(), package.identity.name))
        };
        let parameters: Vec<String> =
            frames_seen(&images).into_iter().chain(self.packages.iter().filter_map(reduced)).collect();
        let series = fresh_uid();
        let evidence = self.evidence_of(&assessment);
        let completion = context.partial.clone().map_or(Completion::Complete, Completion::Partial);
        let variant = |class: &SrClass| {
            let predecessor = context.predecessors.iter().find(|p| p.sop_class.as_str() == class.uid());
            let options = ReportOptions {
                disclosure: context.disclosure,
                sop_class: *class,
                observer: self.observer.clone(),
                sop_instance: fresh_uid(),
                series: series.clone(),
                predecessor: predecessor.cloned(),
                completion: completion.clone(),
                sources: sources.clone(),
                parameters: parameters.clone(),
                related: context.maps.clone(),
                evidence: evidence.clone(),
                now: context.now.with_timezone(&chrono::Local).fixed_offset(),
            };
            report::build(&assessment, &images, &options).context("the report could not be built")
        };
        SrClass::ALL.iter().map(variant).collect()
    }
}
