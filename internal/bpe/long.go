package bpe

import "container/heap"

// candidate is a pair of neighbours that can be merged.
type candidate struct {
	token int32 // that the pair becomes; less is earlier
	at    int32 // place of the left one
	left  int32
	right int32
}

// candidates is a heap, the earliest and leftmost on top.
type candidates []candidate

func (c candidates) Len() int      { return len(c) }
func (c candidates) Swap(i, j int) { c[i], c[j] = c[j], c[i] }
func (c candidates) Less(i, j int) bool {
	return c[i].token < c[j].token || c[i].token == c[j].token && c[i].at < c[j].at
}
func (c *candidates) Push(x any) { *c = append(*c, x.(candidate)) }
func (c *candidates) Pop() any {
	last := (*c)[len(*c)-1]
	*c = (*c)[:len(*c)-1]
	return last
}

// mergeLong is merge in n log n. It merges in the same order because a pair
// that holds a new token always comes after that token.
func (v *vocabulary) mergeLong(ids []int32) []int32 {
	n := int32(len(ids))
	next, prev := make([]int32, n), make([]int32, n)
	for i := range n {
		next[i], prev[i] = i+1, i-1
	}
	var todo candidates
	add := func(i int32) {
		if i < 0 || next[i] >= n {
			return
		}
		left, right := ids[i], ids[next[i]]
		if token, ok := v.rank[[2]int32{left, right}]; ok {
			heap.Push(&todo, candidate{token, i, left, right})
		}
	}
	for i := range n {
		add(i)
	}
	const gone = -1
	for len(todo) > 0 {
		c := heap.Pop(&todo).(candidate)
		i := c.at
		if ids[i] != c.left || next[i] >= n || ids[next[i]] != c.right {
			continue // one of them has been merged
		}
		j := next[i]
		ids[i], ids[j] = c.token, gone
		next[i] = next[j]
		if next[j] < n {
			prev[next[j]] = i
		}
		add(prev[i])
		add(i)
	}
	out := ids[:0]
	for _, id := range ids {
		if id != gone {
			out = append(out, id)
		}
	}
	return out
}
