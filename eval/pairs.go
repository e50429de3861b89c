package eval

import (
	"fmt"
	"math"
	"strconv"
)

// Pair compares two models on the pictures of one set that both scored.
type Pair struct {
	Set   string `json:"set"`
	A     string `json:"a"` // model files
	B     string `json:"b"`
	N     int    `json:"n"`
	OnlyA int    `json:"only_a"` // pictures that only A has right
	OnlyB int    `json:"only_b"`
	// Difference is B's share of right answers less A's, with the 95 % interval of
	// paired shares.
	Difference float64    `json:"difference"`
	CI95       [2]float64 `json:"ci95"`
	P          float64    `json:"p"` // of McNemar's exact test
}

// newPair fills in what follows from the counts. The variance of the difference
// of paired shares is (b + c - (b-c)²/n)/n² (Agresti, Categorical Data Analysis,
// 10.1).
func newPair(set, a, b string, n, onlyA, onlyB int) Pair {
	p := Pair{Set: set, A: a, B: b, N: n, OnlyA: onlyA, OnlyB: onlyB, P: mcNemar(onlyA, onlyB)}
	if n > 0 {
		d := float64(onlyB - onlyA)
		p.Difference = d / float64(n)
		half := z95 * math.Sqrt(float64(onlyA+onlyB)-d*d/float64(n)) / float64(n)
		p.CI95 = [2]float64{max(-1, p.Difference-half), min(1, p.Difference+half)}
	}
	return p
}

// same says whether two comparisons are equal, apart from rounding.
func (p Pair) same(q Pair) bool {
	return p.Set == q.Set && p.A == q.A && p.B == q.B && p.N == q.N && p.OnlyA == q.OnlyA && p.OnlyB == q.OnlyB &&
		near(p.Difference, q.Difference) && near(p.CI95[0], q.CI95[0]) && near(p.CI95[1], q.CI95[1]) && near(p.P, q.P)
}

// near leaves room for the rounding of another processor.
func near(a, b float64) bool { return math.Abs(a-b) <= 1e-9+1e-6*max(math.Abs(a), math.Abs(b)) }

// mcNemar is the two-sided exact p: how likely b and c are to differ at least as
// much if a coin toss decides which model has each of these pictures right.
func mcNemar(b, c int) float64 {
	n, k := b+c, min(b, c)
	if n == 0 {
		return 1
	}
	choose := func(k int) float64 {
		a, _ := math.Lgamma(float64(n + 1))
		x, _ := math.Lgamma(float64(k + 1))
		y, _ := math.Lgamma(float64(n - k + 1))
		return math.Exp(a - x - y - float64(n)*math.Ln2)
	}
	sum := 0.0
	for i := k; i >= 0; i-- {
		term := choose(i)
		if sum += term; term < sum*1e-17 {
			break
		}
	}
	return min(1, 2*sum)
}

// pairs compares every two models on every set whose answers are right or wrong.
func pairs(models []*SuiteModel) []Pair {
	var list []Pair
	for i, a := range models {
		for _, b := range models[i+1:] {
			for k, s := range a.Sets {
				x, y := s.right(), b.Sets[k].right()
				if x == nil || y == nil {
					continue
				}
				n, onlyA, onlyB := 0, 0, 0
				for index, ra := range x {
					rb, both := y[index]
					switch {
					case !both:
						continue
					case ra && !rb:
						onlyA++
					case rb && !ra:
						onlyB++
					}
					n++
				}
				list = append(list, newPair(s.Key, a.Model.File, b.Model.File, n, onlyA, onlyB))
			}
		}
	}
	return list
}

// right says which pictures or questions a set has right, by their index.
func (s SuiteSet) right() map[int]bool {
	if s.result == nil {
		return nil
	}
	return s.result.rightAt
}

var pairsHead = []string{"set", "A", "B", "pictures", "only A right", "only B right", "B - A", "95 %", "p", ""}

func pairRows(list []Pair, models []*SuiteModel) [][]string {
	names := map[string]string{}
	for i, name := range modelNames(models) {
		names[models[i].Model.File] = name
	}
	var rows [][]string
	for _, p := range list {
		mark := ""
		if p.P < 0.05 {
			mark = "differ"
		}
		rows = append(rows, []string{p.Set, names[p.A], names[p.B], strconv.Itoa(p.N), strconv.Itoa(p.OnlyA), strconv.Itoa(p.OnlyB),
			fmt.Sprintf("%+.2f", 100*p.Difference), fmt.Sprintf("%+.2f to %+.2f", 100*p.CI95[0], 100*p.CI95[1]), strconv.FormatFloat(p.P, 'g', 2, 64), mark})
	}
	return rows
}
