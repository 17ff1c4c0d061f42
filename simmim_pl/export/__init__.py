"""A trained encoder for other tools: torchvision, timm, torch.export, ONNX, Hugging Face's hub."""
