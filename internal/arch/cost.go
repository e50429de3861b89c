package arch

// GFLOPs is the work for one image and for one text of full context, in 10⁹
// floating-point operations: two per multiply-add of every matrix product and
// convolution, including attention.
func (c *Config) GFLOPs() (image, text float64) {
	t := &c.Text
	image = c.visionTower().macs(c)
	text = transformerMACs(t.ContextLength, t.Width, 2*c.TextHidden(), t.Layers) + float64(t.Width)*float64(c.EmbedDim)
	return image * 2e-9, text * 2e-9
}

// transformerMACs counts the multiply-adds of blocks over n tokens; mlp is the sum of
// the hidden widths over the MLP's products.
func transformerMACs(n, width, mlp, layers int) float64 {
	tokens, w := float64(n), float64(width)
	return float64(layers) * tokens * (4*w*w + w*float64(mlp) + 2*tokens*w)
}

func (c *Config) vitMACs() float64 {
	v := &c.Vision
	mlp := 2 * c.VisionHidden()
	if v.SwiGLU {
		mlp = 3 * c.VisionHidden()
	}
	patches := float64(c.Tokens() - 1)
	embed := patches * float64(v.Width*3*v.PatchSize*v.PatchSize)
	return embed + transformerMACs(c.Tokens(), v.Width, mlp, c.Layers(VisualTower)) + float64(v.Width*c.EmbedDim)
}

func (c *Config) resnetMACs() float64 {
	side := c.Vision.ImageSize
	var sum float64
	conv := func(k Conv, side int) { sum += float64(k.In*k.Out*k.Kernel*k.Kernel) * float64(side*side) }
	side /= 2
	for _, k := range c.Stem() {
		conv(k, side)
	}
	side /= 2
	for _, b := range c.Bottlenecks() {
		conv(b.Convs[0], side)
		conv(b.Convs[1], side)
		side /= b.Stride
		conv(b.Convs[2], side)
		if b.Downsample != nil {
			conv(*b.Downsample, side)
		}
	}
	tokens, w := float64(c.Tokens()), float64(c.Vision.Width*32)
	// One query, the mean.
	return sum + (2*tokens+1)*w*w + 2*tokens*w + w*float64(c.EmbedDim)
}
