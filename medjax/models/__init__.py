"""What is computed: SigLIP, Gemma, PaliGemma, 4M, LoRA. Built on medjax_kernels; knows no data."""
