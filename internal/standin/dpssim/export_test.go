package dpssim

import "net/http"

// SetWebhookTransport replaces the network, which a test with a synthetic clock cannot wait on.
func (s *Service) SetWebhookTransport(transport http.RoundTripper) { s.client.Transport = transport }
