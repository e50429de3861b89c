package trainer

import (
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"
)

// bucketBytes bounds a bucket, which is exchanged at once, in bytes of float32.
const bucketBytes = 256 << 20

// bucket is what is exchanged at once: pieces of flattened parameters, side by
// side. As an array it is [N, D, width] for N ranks of D devices: row (n, d) is
// what device d of rank n owns. Every piece is padded with zeros to a multiple
// of N·D, so that any model can be split over any number of devices.
type bucket struct {
	pieces []piece
	width  int // columns of all pieces
}

// piece is a run of one flattened parameter. Row (n, d) holds width elements of it,
// from lo+(n·D+d)·width on, and zeros beyond hi.
type piece struct {
	param  int // number of the parameter
	lo, hi int // elements of it
	at     int // first column
	width  int
}

// cutBuckets puts parameters of the given sizes, in elements, into buckets for
// owners (N·D) devices. One larger than limit bytes is spread over several.
func cutBuckets(sizes []int, owners, limit int) (list []bucket) {
	most := max(1, limit/4/owners) // columns of a bucket
	var b bucket
	flush := func() {
		if len(b.pieces) > 0 {
			list = append(list, b)
		}
		b = bucket{}
	}
	for i, size := range sizes {
		for lo := 0; lo < size; {
			hi := min(size, lo+most*owners)
			width := (hi - lo + owners - 1) / owners
			if b.width+width > most {
				flush()
			}
			b.pieces = append(b.pieces, piece{i, lo, hi, b.width, width})
			b.width += width
			lo = hi
		}
	}
	flush()
	return list
}

// bytes is the size of the bucket as an array of float32 for all owners.
func (b bucket) bytes(owners int) int64 { return 4 * int64(b.width) * int64(owners) }

// params are the numbers of the parameters in the bucket, each once.
func (b bucket) params() (list []int) {
	for _, p := range b.pieces {
		list = append(list, p.param) // the pieces of a parameter are in different buckets
	}
	return list
}

// own is the run of parameter elements that rank n owns in a piece: D rows side by
// side. It is empty if the rank has only padding.
func (p piece) own(n, devices int) (lo, hi int) {
	lo = min(p.hi, p.lo+n*devices*p.width)
	return lo, min(p.hi, lo+devices*p.width)
}

// pack puts whole parameters, in the order of b.pieces, into [N, D, width].
func (b bucket) pack(whole []*Node, ranks, devices int) *Node {
	var columns []*Node
	for i, p := range b.pieces {
		x := Reshape(whole[i], whole[i].Shape().Size())
		x = Slice(x, AxisRange(p.lo, p.hi))
		if pad := ranks*devices*p.width - (p.hi - p.lo); pad > 0 {
			x = Concatenate([]*Node{x, Zeros(x.Graph(), shapes.Make(x.DType(), pad))}, 0)
		}
		columns = append(columns, Reshape(x, ranks, devices, p.width))
	}
	return Concatenate(columns, 2)
}

// unpack returns the flattened pieces of b from [N, D, width].
func (b bucket) unpack(packed *Node) (pieces []*Node) {
	for _, p := range b.pieces {
		x := SliceAxis(packed, 2, AxisRange(p.at, p.at+p.width))
		x = Reshape(x, x.Shape().Size())
		pieces = append(pieces, Slice(x, AxisRange(0, p.hi-p.lo)))
	}
	return pieces
}
