package device

import "sync/atomic"

// Traffic counts what crossed between host and device(s).
type Traffic struct {
	Puts, Fetches, Runs  int64
	ToDevice, FromDevice int64 // bytes
}

type traffic struct{ puts, fetches, runs, to, from atomic.Int64 }

// Traffic is what crossed between host and device(s) since Open.
func (d *Device) Traffic() Traffic {
	t := &d.traffic
	return Traffic{t.puts.Load(), t.fetches.Load(), t.runs.Load(), t.to.Load(), t.from.Load()}
}

// Sub is the traffic since an earlier count.
func (t Traffic) Sub(before Traffic) Traffic {
	return Traffic{t.Puts - before.Puts, t.Fetches - before.Fetches, t.Runs - before.Runs,
		t.ToDevice - before.ToDevice, t.FromDevice - before.FromDevice}
}
