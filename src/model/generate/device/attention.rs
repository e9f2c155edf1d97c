//! Attention by candle's operations: keys and values are gathered from the pool.

use candle_core::{Result, Tensor};

use super::kv_pool::{KvPool, LayerMemory};
use super::rows::{Rows, Sequence};
use crate::model::ops::composed::attention::{Padded, SCORE_BYTES};
use crate::model::ops::composed::matmul;
use crate::model::ops::types::Layout;
use crate::model::spec::Spec;

/// How the rows of a pass read and write the pool, the sequences padded to one length.
pub(super) struct Gathered {
    layout: Layout,
    /// `(rows, kv_heads × head_dim)`: each value's row in the pool.
    slots: Tensor,
    groups: Vec<Group>,
    /// The index of each row among those of the groups; `None` if they are in order.
    back: Option<Tensor>,
}

/// Sequences with the same number of rows in the pass.
struct Group {
    batch: usize,
    queries: usize,
    keys: usize,
    /// `(batch × queries)`: rows of the pass.
    rows: Tensor,
    /// `(batch × keys)`: rows of the pool; any for padding.
    slots: Tensor,
    /// `(batch × kv_heads, 1, queries, keys)`: −∞ for what a query must not attend to. One for each
    /// window size of the layers.
    hidden: Vec<(Option<usize>, Tensor)>,
}

impl Gathered {
    pub fn new(rows: &Rows<'_>, pool: &KvPool, spec: &Spec) -> Result<Self> {
        let memory = &pool.layer(0).keys;
        let (device, windows) = (memory.device(), spec.windows());
        let layout = spec.layout(Vec::new());
        let slots = rows.slots();
        let rows_count = slots.len();
        let slots = Tensor::from_vec(slots, (rows_count, 1), device)?;
        let slots = slots.broadcast_as((rows_count, memory.dim(1)?))?.contiguous()?;

        // Sequences with equally many rows are adjacent, and among them those of similar length.
        let mut order = rows.sequences.clone();
        order.sort_by_key(|sequence| (sequence.queries, sequence.keys(), sequence.row));
        let (mut groups, mut rest) = (Vec::new(), &order[..]);
        while let Some(first) = rest.first() {
            let fits = |count: usize| {
                let keys = rest[count - 1].keys();
                let bytes = 4 * count * layout.heads * first.queries * keys;
                rest[count - 1].queries == first.queries && bytes <= SCORE_BYTES
            };
            let count = (2..=rest.len()).take_while(|&count| fits(count)).last().unwrap_or(1);
            groups.push(Group::new(&rest[..count], &layout, &windows, memory)?);
            rest = &rest[count..];
        }
        let mut back = vec![0; rows_count];
        let places = order.iter().flat_map(|s| s.row..s.row + s.queries);
        places.enumerate().for_each(|(place, row)| back[row] = place as u32);
        let is_in_order = back.is_sorted();
        let back = (!is_in_order).then(|| Tensor::new(back, device)).transpose()?;
        Ok(Self { layout, slots, groups, back })
    }

    /// Writes `k` and `v`, `(rows, kv_heads × head_dim)`, to the pool.
    pub fn write(&self, memory: &LayerMemory, k: &Tensor, v: &Tensor) -> Result<()> {
        memory.keys.scatter_set(&self.slots, k, 0)?;
        memory.values.scatter_set(&self.slots, v, 0)
    }

    /// Attention of `q` `(rows, heads × head_dim)`, in that shape.
    pub fn attend(
        &self,
        q: &Tensor,
        memory: &LayerMemory,
        window: Option<usize>,
    ) -> Result<Tensor> {
        let groups = self.groups.iter();
        let y = groups.map(|group| group.attend(q, memory, &self.layout, window));
        let y = Tensor::cat(&y.collect::<Result<Vec<_>>>()?, 0)?;
        match &self.back {
            Some(back) => y.index_select(back, 0),
            None => Ok(y),
        }
    }
}

impl Group {
    /// Of sequences with equally many rows, the longest last.
    fn new(
        sequences: &[Sequence<'_>],
        layout: &Layout,
        windows: &[Option<usize>],
        memory: &Tensor,
    ) -> Result<Self> {
        let device = memory.device();
        let batch = sequences.len();
        let (queries, keys) = sequences.last().map_or((0, 0), |last| (last.queries, last.keys()));
        let (mut rows, mut slots, mut positions) = (Vec::new(), Vec::new(), Vec::new());
        for sequence in sequences {
            rows.extend((sequence.row..sequence.row + queries).map(|row| row as u32));
            let slot = |position| match position < sequence.keys() {
                true => sequence.slot(position),
                false => sequence.slot(0),
            };
            slots.extend((0..keys).map(slot));
            positions.extend(sequence.positions().map(|at| at as u32));
        }
        let padded = Padded { layout, batch, queries, keys };
        let hidden = windows.iter().map(|&window| {
            Ok((window, padded.hidden(&positions, window, memory.dtype(), device)?))
        });
        let hidden = hidden.collect::<Result<_>>()?;
        let (rows, slots) = (Tensor::new(rows, device)?, Tensor::new(slots, device)?);
        Ok(Self { batch, queries, keys, rows, slots, hidden })
    }

    fn attend(
        &self,
        q: &Tensor,
        memory: &LayerMemory,
        layout: &Layout,
        window: Option<usize>,
    ) -> Result<Tensor> {
        let Some((_, hidden)) = self.hidden.iter().find(|(of, _)| *of == window) else {
            candle_core::bail!("no layer has a window of {window:?}")
        };
        let Self { batch, queries, keys, .. } = *self;
        let padded = Padded { layout, batch, queries, keys };
        let gather = |x: &Tensor| padded.by_head(&x.index_select(&self.slots, 0)?, keys, 1);
        let (k, v) = (gather(&memory.keys)?, gather(&memory.values)?);
        let q = padded.by_head(&q.index_select(&self.rows, 0)?, queries, layout.group())?;
        let p = padded.probabilities(&q, &k, hidden)?.to_dtype(v.dtype())?;
        padded.by_row(&matmul(&p, &v)?, queries, layout.group())
    }
}
