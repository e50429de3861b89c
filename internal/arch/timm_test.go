package arch

import "testing"

// The numbers of parameters of the image and text towers of OpenCLIP's models with
// timm's towers and of CLIPA, as open_clip_torch 3.3 and timm 1.0 build them.
var timmParams = map[string][2]int64{
	"convnext_base":         {88090752, 63428096},
	"convnext_base_w":       {88221824, 91163520},
	"convnext_base_w_320":   {88221824, 91163520},
	"convnext_large_d":      {199770816, 152001792},
	"convnext_large_d_320":  {199770816, 152001792},
	"convnext_xxlarge":      {846543744, 354032640},
	"ViT-L-14-CLIPA":        {303964160, 110246400},
	"ViT-L-14-CLIPA-336":    {304291840, 110246400},
	"ViT-H-14-CLIPA":        {632074240, 336160768},
	"ViT-H-14-CLIPA-336":    {632483840, 336160768},
	"ViT-bigG-14-CLIPA":     {1844903936, 672320000},
	"ViT-bigG-14-CLIPA-336": {1845436416, 672320000},
	"MobileCLIP-S1":         {21541632, 63428096},
	"MobileCLIP-S2":         {35815232, 63428096},
	"MobileCLIP-B":          {86349056, 63428096},
	"MobileCLIP2-B":         {86349056, 63428096},
	"MobileCLIP2-S0":        {11406976, 63428096},
	"MobileCLIP2-S2":        {35815232, 63428096},
	"MobileCLIP2-S3":        {125235648, 123650304},
	"MobileCLIP2-S4":        {321784832, 123650304},
	"MobileCLIP2-L-14":      {303966976, 123650304},
	"ViTamin-S":             {22025152, 40444032},
	"ViTamin-S-LTT":         {22172608, 123650304},
	"ViTamin-B":             {87525248, 63428096},
	"ViTamin-B-LTT":         {87721856, 123650304},
	"ViTamin-L":             {333318048, 123650304},
	"ViTamin-L-256":         {333379488, 123650304},
	"ViTamin-L-336":         {333568928, 123650304},
	"ViTamin-L-384":         {333707168, 123650304},
	"ViTamin-L2":            {333580192, 354032640},
	"ViTamin-L2-256":        {333641632, 354032640},
	"ViTamin-L2-336":        {333831072, 354032640},
	"ViTamin-L2-384":        {333969312, 354032640},
	"ViTamin-XL-256":        {436054080, 488722176},
	"ViTamin-XL-336":        {436054080, 488722176},
	"ViTamin-XL-384":        {436054080, 488722176},
	"PE-Core-T-16-384":      {6141056, 63405056},
	"PE-Core-S-16-384":      {23783168, 63405056},
	"PE-Core-B-16":          {93673984, 353986560},
	"PE-Core-L-14-336":      {317152256, 353986560},
	"PE-Core-bigG-14-448":   {1882033920, 537233920},
}

func TestTimmParams(t *testing.T) {
	for name, want := range timmParams {
		c, ok := Named(name)
		if !ok {
			t.Errorf("%s is not known", name)
			continue
		}
		if got := [2]int64{c.NumParams(VisualTower), c.NumParams(TextTower)}; got != want {
			t.Errorf("%s has %d, want %d", name, got, want)
		}
	}
}
