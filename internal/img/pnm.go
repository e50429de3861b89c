package img

import (
	"math"

	"github.com/evatool/evatool/internal/fault"
)

func badPNM(format string, args ...any) error {
	return fault.Inputf("PPM image: "+format, args...)
}

// pnmHeader reads the three numbers after the magic number, with comments from
// # to the end of the line, and returns where the pixels start: one byte of
// white space after the last number.
func pnmHeader(data []byte) (n [3]int, at int, err error) {
	at = 2
	for i := range n {
		digits := 0
		for ; ; at++ {
			if at >= len(data) {
				return n, at, badPNM("the header is truncated; fetch the file again")
			}
			switch c := data[at]; {
			case c >= '0' && c <= '9' && digits < 9: // width times height stays an int64
				n[i] = 10*n[i] + int(c-'0')
				digits++
				continue
			case c == '#':
				for at+1 < len(data) && data[at+1] != '\n' && data[at+1] != '\r' {
					at++
				}
				at++ // the end of the line is not white space either
				continue
			case c == ' ' || c >= '\t' && c <= '\r':
				if digits == 0 {
					continue
				}
			default:
				return n, at, badPNM("%q in the header is not a number; fetch the file again", c)
			}
			break
		}
		at++
	}
	return n, at, nil
}

// openPNM reads a binary PGM (P5) or PPM (P6). Values of other depths than 8
// bits are scaled as PIL scales them: grey of more than 8 bits is mode I.
func openPNM(data []byte) (*Picture, error) {
	n, at, err := pnmHeader(data)
	if err != nil {
		return nil, err
	}
	w, h, top := n[0], n[1], n[2]
	if err := checkSize("PPM", w, h); err != nil {
		return nil, err
	}
	if top < 1 || top > 65535 {
		return nil, badPNM("the largest value is %d; want 1 to 65535", top)
	}
	p := &Picture{Mode: "L", W: w, H: h}
	row, bytes := w, 1
	if data[1] == '6' {
		p.Mode, row = "RGB", 3*w
	}
	if top > 255 {
		bytes = 2
	}
	in := data[at:]
	if len(in) < row*h*bytes {
		return nil, badPNM("it is truncated; fetch the file again")
	}
	out := 255.0
	if p.Mode == "L" && bytes == 2 {
		p.Mode, out = "I", 65535
	}
	p.decode = func(want span, to sink) error {
		scaled := make([]int32, 1<<(8*bytes)) // of every value
		for v := range scaled {
			scaled[v] = int32(min(out, math.RoundToEven(float64(v)/float64(top)*out)))
		}
		b := newBands(p, want.lo, to)
		defer b.close()
		for y := want.lo; y < want.hi; y++ {
			src := in[y*row*bytes : (y+1)*row*bytes]
			switch {
			case top == 255:
				copy(b.next(), src)
			case p.Mode == "I":
				for x, dst := 0, b.nextInt(); x < row; x++ {
					dst[x] = scaled[int(src[2*x])<<8|int(src[2*x+1])]
				}
			case bytes == 2:
				for x, dst := 0, b.next(); x < row; x++ {
					dst[x] = byte(scaled[int(src[2*x])<<8|int(src[2*x+1])])
				}
			default:
				for x, dst := 0, b.next(); x < row; x++ {
					dst[x] = byte(scaled[src[x]])
				}
			}
		}
		b.flush()
		return nil
	}
	return p, nil
}
