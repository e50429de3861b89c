package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// table prints the report for people.
func (r *Report) table(w io.Writer) {
	fmt.Fprintf(w, "%s, driver %s, %d cores; %s, %s; %.0f s\n", or(r.Host.GPU, "no GPU"), or(r.Host.Driver, "-"), r.Host.Cores, r.Device.Kind, or(r.Device.Version, "-"), r.Seconds)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(cells ...any) {
		var s []string
		for _, c := range cells {
			switch v := c.(type) {
			case float64:
				s = append(s, fmt.Sprintf("%.4g", v))
			default:
				s = append(s, fmt.Sprint(v))
			}
		}
		fmt.Fprintln(t, strings.Join(s, "\t"))
	}
	row("\nmatrix product", "side", "TFLOP/s")
	for _, m := range r.MatMul {
		row(m.DType, m.Side, m.TFLOPS)
	}
	row("\nparity with the Go backend", "difference", "allowed", "")
	for _, p := range r.Parity {
		row(p.What, p.Difference, p.Tolerance, map[bool]string{true: "ok", false: "DIFFERENT"}[p.OK])
	}
	row("\nimage tower", "dtype", "batch", "images/s", "MFU %", "first s")
	for _, f := range r.Forward {
		row(f.Model, f.DType, f.Batch, f.Images, 100*f.MFU, f.First)
	}
	row("\ntraining step", "precision", "patch dropout", "checkpointing", "batch", "samples/s", "MFU %", "peak GB", "without donation GB", "fused attention", "up MB (batch MB)", "first s")
	for _, s := range r.Train {
		peak, kept := s.Memory.Peak(), "-"
		if s.PeakBytes > 0 {
			peak = s.PeakBytes
		}
		if s.Kept != nil {
			kept = fmt.Sprintf("%.3g of %.3g planned", float64(s.Kept.Peak())/1e9, float64(s.Memory.Peak())/1e9)
		}
		row(s.Model, s.Precision, s.PatchDropout, s.Checkpoint, s.Batch, s.Samples, 100*s.MFU, float64(peak)/1e9, kept, s.FusedAttention,
			fmt.Sprintf("%.4g (%.4g)", float64(s.ToDevice)/1e6, float64(s.BatchBytes)/1e6), s.First)
	}
	row("\ndata pipeline", "batch", "samples/s from a tar", "ready-made", "waiting %")
	for _, p := range r.Pipeline {
		row(p.Model, p.Batch, p.Real, p.Synthetic, 100*p.Wait)
	}
	t.Flush()
	for _, s := range r.Skipped {
		fmt.Fprintln(w, "skipped:", s)
	}
}

func or(s, other string) string {
	if s == "" {
		return other
	}
	return s
}
