"""What is computed: SigLIP, Gemma, PaliGemma, LoRA. Built on medjax_kernels; knows no data."""
