package yamlfile

// Nearest is the one of words with the smallest edit distance from word, or
// empty if none is near.
func Nearest(word string, words []string) string {
	if len(word) > 64 {
		return ""
	}
	best, found := 1+len(word)/2, ""
	for _, w := range words {
		if d := editDistance(word, w); d < best {
			best, found = d, w
		}
	}
	return found
}

func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		prev := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := prev
			if a[i] != b[j] {
				cost++
			}
			prev = row[j+1]
			row[j+1] = min(cost, row[j]+1, prev+1)
		}
	}
	return row[len(b)]
}
