package eval

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/evatool/evatool/internal/dataset"
	"github.com/evatool/evatool/internal/fault"
)

// question asks which caption goes with which picture.
type question struct {
	ID     string   `json:"id"`
	Part   string   `json:"part,omitempty"` // of a set in parts
	Images []int    `json:"images"`         // indices of the set's pictures
	Texts  []string `json:"texts"`
	// Right lists, where one text has several pictures, the places in Images of
	// those that go with it. Without it picture i goes with text i, and any
	// surplus of either is a distractor.
	Right []int `json:"right,omitempty"`
}

// answer is a question with the cosine of each picture and text.
type answer struct {
	question
	scores []float32 // [images,texts]
}

func (a answer) score(image, text int) float32 { return a.scores[image*len(a.Texts)+text] }

// textRight says whether every picture scores its own text above the others.
// Equal is not above, as Winoground's and SugarCrepe's authors count it.
func (a answer) textRight() bool {
	for i := range min(len(a.Images), len(a.Texts)) {
		for j := range a.Texts {
			if j != i && a.score(i, j) >= a.score(i, i) {
				return false
			}
		}
	}
	return true
}

// imageRight says whether every text scores its own picture above the others.
func (a answer) imageRight() bool {
	for i := range min(len(a.Images), len(a.Texts)) {
		for j := range a.Images {
			if j != i && a.score(j, i) >= a.score(i, i) {
				return false
			}
		}
	}
	return true
}

// chosen lists the len(Right) pictures with the highest scores; among equals the
// later ones, as a stable argsort does.
func (a answer) chosen() []int {
	order := make([]int, len(a.Images))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(i, j int) int { return cmp.Compare(a.scores[i], a.scores[j]) })
	return order[len(order)-len(a.Right):]
}

// jaccard is the Jaccard index of the chosen and the right pictures.
func (a answer) jaccard() float64 {
	both := 0
	for _, i := range a.chosen() {
		if slices.Contains(a.Right, i) {
			both++
		}
	}
	return ratio(both, 2*len(a.Right)-both)
}

// right says whether the whole question is answered correctly.
func (a answer) right() bool {
	if a.Right != nil {
		return a.jaccard() == 1
	}
	return a.textRight() && a.imageRight()
}

// tied says whether an equal score decided.
func (a answer) tied() bool {
	if a.Right != nil {
		sorted := slices.Sorted(slices.Values(a.scores))
		cut := len(sorted) - len(a.Right)
		return cut > 0 && sorted[cut-1] == sorted[cut]
	}
	for i := range min(len(a.Images), len(a.Texts)) {
		for j := range a.Texts {
			if j != i && a.score(i, j) == a.score(i, i) {
				return true
			}
		}
		for j := range a.Images {
			if j != i && a.score(j, i) == a.score(i, i) {
				return true
			}
		}
	}
	return false
}

// ChoiceScore counts the questions of a set that asks to choose.
type ChoiceScore struct {
	// TextCorrect counts the questions whose pictures all get their own text,
	// ImageCorrect those whose texts all get their own picture, GroupCorrect both.
	TextCorrect  int `json:"text_correct"`
	ImageCorrect int `json:"image_correct"`
	GroupCorrect int `json:"group_correct"`
	// Parts are those of a set in parts, by name.
	Parts []PartRow `json:"parts,omitempty"`
	// Jaccard is the mean Jaccard index by the number of candidates: "all", "5",
	// "6", "10", "12", "5-6", "10-12".
	Jaccard map[string]float64 `json:"jaccard,omitempty"`
}

// PartRow counts the questions of one part.
type PartRow struct {
	Name    string     `json:"name"`
	N       int        `json:"n"`
	Correct int        `json:"correct"`
	Value   float64    `json:"value"`
	CI95    [2]float64 `json:"ci95"`
}

// choose counts the answers into a result.
func (res *Result) choose(answers []answer) {
	c := &ChoiceScore{}
	res.Choice, res.PerClass, res.Confused = c, []ClassRow{}, []Confusion{}
	res.N, res.Ties, res.Correct1 = len(answers), 0, 0
	res.rightAt = make(map[int]bool, len(answers))
	for i, a := range answers {
		res.rightAt[i] = a.right()
		if a.tied() {
			res.Ties++
		}
		if a.right() {
			res.Correct1++
		}
		if a.Right != nil {
			continue
		}
		text, image := a.textRight(), a.imageRight()
		for _, count := range []struct {
			yes bool
			n   *int
		}{{text, &c.TextCorrect}, {image, &c.ImageCorrect}, {text && image, &c.GroupCorrect}} {
			if count.yes {
				*count.n++
			}
		}
		c.part(a.Part, text)
	}
	res.Top1, res.CI95.Top1 = ratio(res.Correct1, res.N), Wilson(res.Correct1, res.N)
	slices.SortFunc(c.Parts, func(a, b PartRow) int { return strings.Compare(a.Name, b.Name) })
	for i := range c.Parts {
		p := &c.Parts[i]
		p.Value, p.CI95 = ratio(p.Correct, p.N), Wilson(p.Correct, p.N)
	}
	res.Value, res.CI95.Value = res.chosenValue(answers)
}

func (c *ChoiceScore) part(name string, right bool) {
	if name == "" {
		return
	}
	i := slices.IndexFunc(c.Parts, func(p PartRow) bool { return p.Name == name })
	if i < 0 {
		i = len(c.Parts)
		c.Parts = append(c.Parts, PartRow{Name: name})
	}
	c.Parts[i].N++
	if right {
		c.Parts[i].Correct++
	}
}

// chosenValue is the figure that a set of questions reports.
func (res *Result) chosenValue(answers []answer) (float64, [2]float64) {
	c := res.Choice
	switch res.Metric {
	case dataset.GroupAccuracy:
		return ratio(c.GroupCorrect, res.N), Wilson(c.GroupCorrect, res.N)
	case dataset.MeanOverParts:
		return c.meanOverParts()
	case dataset.Jaccard1012:
		return c.jaccards(answers)
	}
	return ratio(c.TextCorrect, res.N), Wilson(c.TextCorrect, res.N)
}

// meanOverParts weighs all parts equally, whatever their sizes. The interval is
// the normal one over the parts' binomial variances, as that over classes.
func (c *ChoiceScore) meanOverParts() (float64, [2]float64) {
	rows := make([]ClassRow, len(c.Parts))
	for i, p := range c.Parts {
		rows[i] = ClassRow{N: p.N, Correct: p.Correct}
	}
	return (&tally{class: rows}).meanPerClass()
}

// jaccards fills in the means that DataComp lists and returns that of the
// questions with ten candidates or more.
func (c *ChoiceScore) jaccards(answers []answer) (float64, [2]float64) {
	by := map[string][]float64{}
	for _, a := range answers {
		n := len(a.Images)
		names := []string{"all", strconv.Itoa(n)}
		if n <= 6 {
			names = append(names, "5-6")
		}
		if n >= 10 {
			names = append(names, "10-12")
		}
		for _, name := range names {
			by[name] = append(by[name], a.jaccard())
		}
	}
	c.Jaccard = map[string]float64{}
	for name, values := range by {
		c.Jaccard[name], _ = meanInterval(values)
	}
	return meanInterval(by["10-12"])
}

// answersHead is the header of rows.csv of a set that asks to choose. Lists are
// separated by spaces; scores go picture by picture.
var answersHead = []string{"index", "id", "part", "images", "texts", "right", "scores", "correct", "tie"}

func (a answer) record(index int) []string {
	flag := map[bool]string{false: "0", true: "1"}
	scores := make([]string, len(a.scores))
	for i, s := range a.scores {
		scores[i] = strconv.FormatFloat(float64(s), 'g', -1, 32)
	}
	return []string{strconv.Itoa(index), a.ID, a.Part, spaced(a.Images), strconv.Itoa(len(a.Texts)), spaced(a.Right),
		strings.Join(scores, " "), flag[a.right()], flag[a.tied()]}
}

func spaced(list []int) string { return strings.Trim(fmt.Sprint(list), "[]") }

func parseSpaced(s string) ([]int, error) {
	var out []int
	for _, f := range strings.Fields(s) {
		n, err := strconv.Atoi(f)
		if err != nil {
			return nil, err
		}
		out = append(out, n)
	}
	return out, nil
}

// parseAnswer reads what record wrote.
func parseAnswer(rec []string) (a answer, err error) {
	a.ID, a.Part = rec[1], rec[2]
	if a.Images, err = parseSpaced(rec[3]); err != nil {
		return a, err
	}
	if a.Right, err = parseSpaced(rec[5]); err != nil {
		return a, err
	}
	texts, err := strconv.Atoi(rec[4])
	scores := strings.Fields(rec[6])
	if err != nil || texts < 1 || len(a.Images) < 1 || texts > len(scores) || len(scores) != texts*len(a.Images) || len(a.Right) > len(a.Images) {
		return a, fmt.Errorf("%d scores for %d pictures and %q texts; want one per pair", len(scores), len(a.Images), rec[4])
	}
	a.Texts = make([]string, texts)
	for _, i := range a.Right {
		if i < 0 || i >= len(a.Images) {
			return a, fmt.Errorf("right answer %d is not one of the %d pictures", i, len(a.Images))
		}
	}
	for _, s := range scores {
		v, err := strconv.ParseFloat(s, 32)
		if err != nil || v != v {
			return a, fmt.Errorf("score %q is not a number", s)
		}
		a.scores = append(a.scores, float32(v))
	}
	return a, nil
}

// answers scores the questions that the entries carry. A question with a picture
// that does not decode is left out.
func answers(entries []entry) ([]answer, error) {
	at := make(map[int]*found, len(entries))
	for _, e := range entries {
		if e.Bad == "" {
			at[e.Index] = e.Found
		}
	}
	var out []answer
	for _, e := range entries {
		if e.Found == nil {
			continue
		}
		text := 0 // the row of e.Found.Texts
		for _, q := range e.Found.Questions {
			a := answer{question: q}
			for _, i := range q.Images {
				im := at[i]
				if im == nil {
					a.scores = nil
					break
				}
				for t := range q.Texts {
					a.scores = append(a.scores, float32(dot(im.Image, e.Found.text(text+t))))
				}
			}
			text += len(q.Texts)
			if a.scores != nil {
				out = append(out, a)
			}
		}
	}
	if len(out) == 0 {
		return nil, fault.Inputf("every question has a picture that does not decode; fetch the pictures again")
	}
	return out, nil
}
