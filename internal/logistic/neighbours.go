package logistic

import (
	"context"
	"math"
)

// neighbourRows is how many rows of the training set are searched at once.
const neighbourRows = 2048

// Temperature is that of DINO's protocol: a neighbour weighs exp(cosine/0.07).
const Temperature = 0.07

type neighbour struct {
	cosine float64
	class  int
}

// Neighbours predicts a class for every row of test: the k rows of train (unit
// length, classes y) with the highest cosine vote, each exp(cosine/Temperature).
// Of equal cosines the earlier row is nearer, of equal votes the lower class wins.
func Neighbours(ctx context.Context, train Rows, y []int, classes int, test Rows, k int) ([]int, error) {
	near := make([][]neighbour, test.Len())
	d := train.Dim()
	read := make([]float32, neighbourRows*d)
	for lo := 0; lo < train.Len(); lo += neighbourRows {
		n := min(neighbourRows, train.Len()-lo)
		if err := train.Read(read[:n*d], lo, lo+n); err != nil {
			return nil, err
		}
		w := newMatrix(n, d)
		w.set(read, d, n)
		err := eachBlock(ctx, test, w, func(i int, cosines []float64) {
			for j, c := range cosines {
				near[i] = closer(near[i], neighbour{c, y[lo+j]}, k)
			}
		})
		if err != nil {
			return nil, err
		}
	}
	out := make([]int, test.Len())
	votes := make([]float64, classes)
	for i, list := range near {
		clear(votes)
		for _, n := range list {
			votes[n.class] += math.Exp(n.cosine / Temperature)
		}
		for c, v := range votes {
			if v > votes[out[i]] {
				out[i] = c
			}
		}
	}
	return out, nil
}

// closer puts n into the list of the k nearest.
func closer(list []neighbour, n neighbour, k int) []neighbour {
	at := len(list)
	for at > 0 && n.cosine > list[at-1].cosine {
		at--
	}
	if at == k {
		return list
	}
	if len(list) < k {
		list = append(list, neighbour{})
	}
	copy(list[at+1:], list[at:])
	list[at] = n
	return list
}
