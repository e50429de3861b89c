// Package checkpoint presents any CLIP checkpoint as named tensors in EVA's key
// layout, with its architecture: it opens the file (Open), recognises key family
// and architecture, plans every tensor before it reads a byte (Input.Plan), and
// streams each in constant memory (Item.Open). OpenModel does this for a model to
// be used as it is, OpenStart for a starting model from two towers.
package checkpoint
