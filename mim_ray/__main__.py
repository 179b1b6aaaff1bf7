from mim_ray.cli import main

main()
