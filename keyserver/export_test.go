package keyserver

// AttestorOf returns a server's attestor for a type of evidence.
func AttestorOf(s *Server, typ string) Attestor { return s.attestors[typ] }
