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
				at++ // the end of the line is no white space either
				continue
			case c == ' ' || c >= '\t' && c <= '\r':
				if digits == 0 {
					continue
				}
			default:
				return n, at, badPNM("%q in the header is no number; fetch the file again", c)
			}
			break
		}
		at++
	}
	return n, at, nil
}

// decodePNM reads a binary PGM (P5) or PPM (P6). Values of other depths than 8
// bits are scaled as PIL scales them: grey of more than 8 bits is mode I.
func decodePNM(data []byte) (*Image, error) {
	n, at, err := pnmHeader(data)
	if err != nil {
		return nil, err
	}
	w, h, top := n[0], n[1], n[2]
	if err := checkSize("PPM", w, h); err != nil {
		return nil, err
	}
	if top < 1 || top > 65535 {
		return nil, badPNM("%d as the largest value; want 1 to 65535", top)
	}
	im := &Image{Mode: "L", W: w, H: h}
	count, bytes := w*h, 1
	if data[1] == '6' {
		im.Mode, count = "RGB", 3*count
	}
	if top > 255 {
		bytes = 2
	}
	in := data[at:]
	if len(in) < count*bytes {
		return nil, badPNM("it is truncated; fetch the file again")
	}
	if top == 255 {
		im.Pix = append([]byte(nil), in[:count]...)
		return im, nil
	}
	out := 255.0
	if im.Mode == "L" && bytes == 2 {
		im.Mode, out = "I", 65535
		im.Int = make([]int32, count)
	} else {
		im.Pix = make([]byte, count)
	}
	for i := range count {
		v := int(in[i*bytes])
		if bytes == 2 {
			v = v<<8 | int(in[2*i+1])
		}
		scaled := min(out, math.RoundToEven(float64(v)/float64(top)*out))
		if im.Int != nil {
			im.Int[i] = int32(scaled)
		} else {
			im.Pix[i] = byte(scaled)
		}
	}
	return im, nil
}
