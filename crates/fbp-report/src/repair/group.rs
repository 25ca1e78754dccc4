use fbp_train::repair::{RepairPoint, RepairSubject};

/// The points of one method, stage and kind of samples, over all seeds.
pub(super) struct Curve<'a> {
    /// Data and samples.
    pub(super) subject: String,
    pub(super) method: &'static str,
    pub(super) stage: &'a str,
    pub(super) points: Vec<&'a RepairPoint>,
}

impl<'a> Curve<'a> {
    /// All curves, in the order of their first points; those of one kind of samples stand together.
    pub(super) fn all(points: &'a [RepairPoint]) -> Vec<Self> {
        let mut curves: Vec<Self> = Vec::new();
        for point in points {
            let RepairSubject { samples, model, data, .. } = &point.subject;
            let (subject, method) = (format!("{model}, {}, {samples}", data.name), point.method.name());
            let same = |curve: &&mut Self| {
                (&curve.subject, curve.method, curve.stage) == (&subject, method, point.stage.as_str())
            };
            match curves.iter_mut().find(same) {
                Some(curve) => curve.points.push(point),
                None => curves.push(Self { subject, method, stage: &point.stage, points: vec![point] }),
            }
        }
        let mut subjects: Vec<String> = Vec::new();
        for curve in &curves {
            if !subjects.contains(&curve.subject) {
                subjects.push(curve.subject.clone());
            }
        }
        curves.sort_by_key(|curve| subjects.iter().position(|subject| *subject == curve.subject));
        curves
    }

    /// Name of method and stage.
    pub(super) fn name(&self) -> String {
        match self.method {
            "repair" => format!("repair of {}", self.stage),
            method => method.to_owned(),
        }
    }
}
