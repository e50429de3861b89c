package img

// JPEGDecoder names what decodes JPEG here: a libjpeg-turbo library or "go".
func JPEGDecoder() string { return "go" }

func decodeJPEG(data []byte) (*Image, error) { return decodeJPEGGo(data) }
