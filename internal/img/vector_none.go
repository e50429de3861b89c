//go:build !amd64

package img

// There is no vector code here; the variable is for the tests.
var haveAVX2 = false

func (*weights) words() []byte { return nil }

func horizontalRows([]byte, int, []byte, int, int, *weights, []byte) int { return 0 }

func verticalColumns([]byte, []byte, int, []int32) int { return 0 }

func idctVector([]byte, int, *block, *[64]int16) bool { return false }

func yccVector(_, _, _, _ []byte) int { return 0 }

func h2v2Vector(_, _, _ []byte) int { return 1 }
